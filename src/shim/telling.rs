//! What a shim tells its clients. Not a queue but the newest state, of which each client takes what it does not know yet
//! whenever it takes anything: one that is slow misses lines and no news, and holds up nobody.

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use weldrfs_control::{Ended, Note, Told};

/// All that there is to tell.
#[derive(Debug, Clone, Default)]
pub(super) struct Telling {
    /// Once the command runs.
    pub(super) note: Option<Note>,
    /// Offset of the oldest output that is kept, and the end of it.
    pub(super) output: (u64, u64),
    /// Once it has ended.
    pub(super) ended: Option<Ended>,
}

/// Tells one client until it is gone or has heard the end.
pub(super) async fn tell(
    mut client: impl AsyncWrite + Unpin,
    mut telling: watch::Receiver<Telling>,
) {
    let mut known = Telling::default();
    loop {
        let now = telling.borrow_and_update().clone();
        for told in news(&known, &now) {
            // Numbers and text, which JSON can hold.
            let mut line = serde_json::to_vec(&told).unwrap_or_default();
            line.push(b'\n');
            if client.write_all(&line).await.is_err() {
                return;
            }
        }
        if now.ended.is_some() || telling.changed().await.is_err() {
            return;
        }
        known = now;
    }
}

fn news(known: &Telling, now: &Telling) -> Vec<Told> {
    let mut news = Vec::new();
    if let (None, Some(note)) = (&known.note, &now.note) {
        news.push(Told::Started(note.clone()));
    }
    if known.output.1 < now.output.1 {
        let (first, written) = now.output;
        news.push(Told::Output { first, written });
    }
    if let (None, Some(ended)) = (&known.ended, &now.ended) {
        news.push(Told::Ended(ended.clone()));
    }
    news
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_reads_nothing_for_long_hears_the_end() {
        let telling = watch::Sender::new(Telling::default());
        let (client, mut reader) = tokio::io::duplex(64);
        let telling_it = tokio::spawn(tell(client, telling.subscribe()));
        for written in 1..10_000 {
            telling.send_modify(|telling| telling.output = (0, written));
            tokio::task::yield_now().await;
        }
        telling.send_modify(|telling| telling.ended = Some(Ended::default()));
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        telling_it.await.unwrap();
        let lines: Vec<Told> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(lines.len() < 10, "{}", lines.len());
        assert!(matches!(lines.last(), Some(Told::Ended(_))), "{lines:?}");
        let last = lines.iter().rev().find_map(|told| match told {
            Told::Output { written, .. } => Some(*written),
            _ => None,
        });
        assert_eq!(last, Some(9_999));
    }
}
