//! The page of a run: facts, plots, every figure. One file that needs nothing else.

use std::fmt::Write as _;

use super::plot;
use super::stats::Spread;
use super::table::{headline, number};
use crate::error::Result;
use crate::record::{Run, RunKind, Unit};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:1040px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-size:13px}td,th{border:1px solid #ccc;padding:2px 7px;text-align:right}\
td:first-child,th:first-child{text-align:left}.scroll{overflow-x:auto}svg{max-width:100%;height:auto}";

/// The page.
pub(crate) fn page(run: &Run) -> Result<String> {
    let title = format!("WeldrFS: bench {}", run.kind.word());
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n<p>{}</p>\n",
        escaped(&headline(run).replace('`', ""))
    );
    let plots = [
        match run.kind {
            // What is like a snapshot elsewhere is there only once.
            RunKind::Snapshots => None,
            _ => plot::costs(run)?,
        },
        plot::values(
            run,
            Unit::Milliseconds,
            "milliseconds; lines are the spread",
        )?,
        plot::values(run, Unit::Seconds, "seconds; lines are the spread")?,
        plot::values(run, Unit::PerSecond, "per second; lines are the spread")?,
        match run.kind {
            RunKind::Cold => plot::values(run, Unit::Count, "counts")?,
            _ => None,
        },
    ];
    for svg in plots.into_iter().flatten() {
        let _ = writeln!(out, "<p>{svg}</p>");
    }
    targets(&mut out, run);
    figures(&mut out, run);
    out.push_str("</body></html>\n");
    Ok(out)
}

fn targets(out: &mut String, run: &Run) {
    out.push_str(
        "<h2>Targets</h2><div class=\"scroll\"><table><tr><th>target<th>version<th>set up<th>\n",
    );
    for target in &run.targets {
        let mut last = String::new();
        if target.latency_held {
            last.push_str("cpu_dma_latency held at 0 ");
        }
        if let Some(why) = &target.skipped {
            let _ = write!(last, "skipped: {why}");
        }
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}",
            escaped(&target.name),
            escaped(&target.version),
            escaped(&target.options),
            escaped(&last)
        );
    }
    out.push_str("</table></div>\n<h2>Settings</h2><table>\n");
    for (name, value) in &run.settings {
        let _ = writeln!(out, "<tr><td>{}<td>{}", escaped(name), escaped(value));
    }
    out.push_str("</table>\n");
}

/// Every step with the median, the spread and all values of every target.
fn figures(out: &mut String, run: &Run) {
    out.push_str("<h2>Figures</h2>\n");
    for step in &run.steps {
        let _ = writeln!(
            out,
            "<h3>{}</h3><p>{}</p><div class=\"scroll\"><table><tr><th>target<th>median{}<th>least<th>most<th>all rounds",
            escaped(&step.name),
            escaped(&step.about),
            match step.unit.shown() {
                "" => String::new(),
                unit => format!(", {unit}"),
            }
        );
        for target in run.measured() {
            let values = run.values(&target.name, &step.name);
            let cells = match Spread::of(&values) {
                Some(spread) => {
                    let all: Vec<String> = values.iter().copied().map(number).collect();
                    format!(
                        "<td>{}<td>{}<td>{}<td>{}",
                        number(spread.median),
                        number(spread.least),
                        number(spread.most),
                        all.join(" ")
                    )
                }
                None => {
                    let why = run.trouble(&target.name, &step.name).unwrap_or("–");
                    format!("<td colspan=\"4\">{}", escaped(why))
                }
            };
            let _ = writeln!(out, "<tr><td>{}{cells}", escaped(&target.name));
        }
        out.push_str("</table></div>\n");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_plots_figures_and_nothing_unescaped() {
        let mut run = crate::report::tests::run();
        run.targets[1].options = "<script>".into();
        let page = page(&run).unwrap();
        assert!(page.contains("<svg") && page.contains("git_clone"));
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(page.contains("not done after 10m"));
    }
}
