//! Chromium without a window, driven by its debugging protocol over a pair of pipes: opens pages, and tells what is on them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{PATIENCE, until};

/// Debian's package of the same name; it has no window and needs no display.
const BROWSER: &str = "chromium-headless-shell";
/// The protocol comes in at descriptor 3 and goes out at descriptor 4.
const PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >&2"#;

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    page: Option<String>,
    last: u64,
    console: Vec<String>,
    profile: tempfile::TempDir,
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(profile.path().join("log")).unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-c", PIPES, "sh", BROWSER])
            // Root's browser has no sandbox of its own, and containers have a small /dev/shm.
            .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
            .args(["--no-proxy-server", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path());
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while said
                .read_until(0, &mut message)
                .is_ok_and(|length| length > 0)
            {
                message.pop();
                let parsed = serde_json::from_slice(&message).unwrap_or_default();
                if sender.send(parsed).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            process,
            orders,
            answers,
            page: None,
            last: 0,
            console: Vec::new(),
            profile,
        };
        let target = browser.order("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.order("Target.attachToTarget", attach);
        browser.page = attached["sessionId"].as_str().map(str::to_owned);
        browser.order("Runtime.enable", json!({}));
        browser
    }

    /// Has something done, and returns what came of it.
    #[track_caller]
    fn order(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut order = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(page) = &self.page {
            order["sessionId"] = json!(page);
        }
        let sent = self.orders.write_all(format!("{order}\0").as_bytes());
        let deadline = Instant::now() + PATIENCE;
        while sent.is_ok() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(answer) = self.answers.recv_timeout(left) else {
                break;
            };
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            if answer["method"] == "Runtime.consoleAPICalled" {
                self.console.push(answer["params"]["args"].to_string());
            }
        }
        let log = std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default();
        panic!("{BROWSER} did not do {method}; scripts/dev setup installs it: {log}")
    }

    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        let answer = self.order("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
    }

    /// The value of an expression on the page; null while there is none.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "returnByValue": true});
        self.order("Runtime.evaluate", ask)["result"]["value"].clone()
    }

    /// Waits until the page has written `text` to its console.
    #[track_caller]
    pub(crate) fn logs(&mut self, text: &str) {
        until(&format!("the console says {text}"), || {
            // Whatever is asked brings along what was written meanwhile.
            self.value("1");
            self.console.iter().any(|line| line.contains(text))
        });
    }

    /// Waits until the page's text is `text`.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) {
        let mut seen = Value::Null;
        until(&format!("the page shows {text}"), || {
            seen = self.value("document.body && document.body.innerText.trim()");
            seen == text
        });
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
