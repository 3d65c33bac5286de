//! The rows of requests with an `Idempotency-Key`: reserved before anything is done, completed with the answer.

use rusqlite::{Connection, OptionalExtension, params};

use super::Store;
use crate::error::ApiError;

/// Most rows. When there are more, the oldest go, answered or not.
const ANSWERS_MAX: i64 = 10_000;

/// What is known of a request before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) enum Reserved {
    /// Nothing: it is this one's to do.
    New,
    /// It was begun, and nobody knows how far it came. It has this id.
    Begun {
        /// As it was reserved with.
        id: String,
    },
    /// It was answered.
    Answered(String),
    /// The key belongs to another request.
    Other,
}

impl Store {
    /// Reserves the key `key` of `asker` for the request with the digest `request`, which would have the name `id`, and
    /// forgets what was begun before `oldest_ms`.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`]; nothing is reserved then.
    pub(in crate::sidecar) async fn reserve_answer(
        &self,
        asker: &str,
        key: &str,
        request: [u8; 32],
        id: String,
        now_ms: u64,
        oldest_ms: u64,
    ) -> Result<Reserved, ApiError> {
        let (asker, key) = (asker.to_owned(), key.to_owned());
        self.run(move |open| {
            let tx = open.db.transaction()?;
            forget_old(&tx, signed(oldest_ms))?;
            let there: Option<([u8; 32], String, Option<String>)> = tx
                .prepare_cached("SELECT request, id, answer FROM answer WHERE asker = ?1 AND key = ?2")?
                .query_row([&asker, &key], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let reserved = match there {
                None => {
                    tx.prepare_cached(
                        "INSERT INTO answer (asker, key, request, id, begun_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![asker, key, request, id, signed(now_ms)])?;
                    Reserved::New
                }
                Some((of, _, _)) if of != request => Reserved::Other,
                Some((_, _, Some(answer))) => Reserved::Answered(answer),
                Some((_, id, None)) => Reserved::Begun { id },
            };
            tx.commit()?;
            Ok(reserved)
        })
        .await
    }

    /// Keeps the answer of a request that was reserved.
    ///
    /// # Errors
    /// [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn keep_answer(
        &self,
        asker: &str,
        key: &str,
        answer: String,
    ) -> Result<(), ApiError> {
        let (asker, key) = (asker.to_owned(), key.to_owned());
        self.run(move |open| {
            open.db
                .prepare_cached("UPDATE answer SET answer = ?3 WHERE asker = ?1 AND key = ?2")?
                .execute([asker, key, answer])
                .map(drop)
        })
        .await
    }
}

fn forget_old(db: &Connection, oldest_ms: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM answer WHERE begun_ms < ?1")?
        .execute([oldest_ms])?;
    // Only when there are too many: counting is cheaper than sorting.
    let count: i64 = db
        .prepare_cached("SELECT count(*) FROM answer")?
        .query_row((), |row| row.get(0))?;
    if count >= ANSWERS_MAX {
        db.prepare_cached(
            "DELETE FROM answer WHERE (asker, key) IN
             (SELECT asker, key FROM answer ORDER BY begun_ms, asker, key LIMIT ?1)",
        )?
        .execute([count + 1 - ANSWERS_MAX])?;
    }
    Ok(())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_end_by_age_and_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let reserve = |key: String, now: u64, oldest: u64| {
            let store = store.clone();
            async move {
                let id = format!("id-{now}");
                let done = store.reserve_answer("a", &key, [1; 32], id, now, oldest);
                done.await.unwrap()
            }
        };
        assert_eq!(reserve("k".into(), 5, 0).await, Reserved::New);
        let begun = Reserved::Begun { id: "id-5".into() };
        assert_eq!(reserve("k".into(), 6, 5).await, begun);
        assert_eq!(reserve("k".into(), 7, 6).await, Reserved::New);
        // As many as there may be: the oldest makes room.
        let filled = store.run(|open| {
            open.db.execute(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                 INSERT INTO answer (asker, key, request, id, begun_ms) SELECT 'b', n, zeroblob(32), n, 100 + n FROM n",
                [ANSWERS_MAX - 1],
            )
        });
        filled.await.unwrap();
        let begun = Reserved::Begun { id: "id-7".into() };
        assert_eq!(reserve("l".into(), 200_000, 0).await, Reserved::New);
        assert_ne!(reserve("k".into(), 200_001, 0).await, begun, "it went");
        let count = store.run(|open| {
            open.db.query_row("SELECT count(*) FROM answer", (), |row| {
                row.get::<_, i64>(0)
            })
        });
        assert_eq!(count.await.unwrap(), ANSWERS_MAX);
    }
}
