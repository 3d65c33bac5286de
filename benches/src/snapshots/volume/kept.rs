//! What snapshots cost those who go on: normal writes while many are kept, the pause while one is made, and making and
//! removing one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Volume;
use crate::error::{At, Error, Result, ensure};
use crate::request::Connection;

/// Between two snapshots while somebody writes.
const PAUSE: Duration = Duration::from_millis(50);

impl Volume<'_, '_, '_> {
    /// Writes as on any day. With snapshots kept there is a new one before each round, as an agent makes them: what is
    /// written is captured for it.
    pub(super) fn normal_writes(&mut self) -> Result<()> {
        let has_some = self.there > 0;
        let (desk, connection) = (&mut *self.desk, &mut self.connection);
        desk.writes(&mut |round| {
            connection.post::<Value>("/v1/sync", &json!({}))?;
            if has_some {
                let body = json!({ "name": format!("writes-{round}") });
                connection.post::<Value>("/v1/snapshots", &body)?;
            }
            Ok(())
        })
    }

    /// The longest operations of a writer, alone and while snapshots are made.
    pub(super) fn pauses(&mut self) -> Result<()> {
        self.desk.writer()?;
        self.tidy()?;
        self.desk.doing("writer_p99_while");
        let mut connection = Connection::open(&self.socket(), self.desk.limit())?;
        let is_over = AtomicBool::new(false);
        let desk = &*self.desk;
        let (said, made) = std::thread::scope(|scope| {
            let making = scope.spawn(|| -> Result<Vec<f64>> {
                let mut took = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    std::thread::sleep(PAUSE);
                    let body = json!({ "name": format!("while-{}", took.len()) });
                    let began = Instant::now();
                    connection.post::<Value>("/v1/snapshots", &body)?;
                    took.push(began.elapsed().as_secs_f64() * 1e3);
                }
                Ok(took)
            });
            // Here, not in the other thread: programs end with the thread that started them.
            let said = desk.write_without_pause();
            is_over.store(true, Ordering::Relaxed);
            let failed = |_| Err(Error::Wrong("making snapshots ended badly".into()));
            (said, making.join().unwrap_or_else(failed))
        });
        let (said, made) = (said?, made?);
        self.desk.note_as("create_while", &made);
        for (figure, name) in [("writer_p99_while", "p99"), ("writer_worst_while", "worst")] {
            self.desk.note_as(figure, &[said.figures[name]]);
        }
        Ok(())
    }

    /// Snapshots by command and by request, each after a small write, and their removal.
    pub(super) fn many_snapshots(&mut self) -> Result<()> {
        self.desk.doing("create");
        let names: Vec<String> = (0..self.desk.amounts.commands)
            .map(|n| format!("c-{n}"))
            .collect();
        let mut took = Vec::new();
        for name in &names {
            self.touch(name)?;
            let done = self.snapshot("create", name)?;
            ensure(done.stdout.trim() == name, || {
                format!("the command told {:?}", done.stdout)
            })?;
            took.push(done.seconds * 1e3);
        }
        self.desk.note(&took);

        self.desk.doing("create_request");
        let mut took = Vec::new();
        for n in 0..self.desk.amounts.requests {
            let name = format!("r-{n}");
            self.touch(&name)?;
            let began = Instant::now();
            self.request_snapshot(&name)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        self.desk.note(&took);
        self.busy_snapshots()?;
        let amounts = self.desk.amounts;
        let wanted = self.there + amounts.commands + amounts.requests + amounts.repeats;
        let found = self.names()?.len() as u64;
        ensure(found == wanted, || {
            format!("{found} snapshots are there, not {wanted}")
        })?;

        self.desk.doing("remove");
        let mut took = Vec::new();
        for name in &names {
            took.push(self.snapshot("rm", name)?.seconds * 1e3);
        }
        self.desk.note(&took);
        Ok(())
    }

    /// Snapshots of a volume that was just written to a lot: nothing of that has to be done before they are there.
    fn busy_snapshots(&mut self) -> Result<()> {
        self.desk.doing("create_busy");
        let mut took = Vec::new();
        for n in 0..self.desk.amounts.repeats {
            self.desk.write("overwrite", n)?;
            let began = Instant::now();
            self.request_snapshot(&format!("b-{n}"))?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        self.desk.note(&took);
        Ok(())
    }

    fn touch(&self, text: &str) -> Result<()> {
        let path = self.desk.beside("touched");
        std::fs::write(&path, text).at(&path)
    }
}
