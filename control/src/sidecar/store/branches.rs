//! The rows of branches: written before a branch is made or removed, so that whoever comes after a killed sidecar knows
//! what was under way.

use rusqlite::types::Type;
use rusqlite::{Row, params};

use super::{Store, unsigned};
use crate::error::ApiError;

/// How far a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) enum RowState {
    /// It is being made.
    Creating,
    /// It is there.
    Ready,
    /// It is being removed.
    Removing,
}

impl RowState {
    const ALL: [Self; 3] = [Self::Creating, Self::Ready, Self::Removing];

    fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Removing => "removing",
        }
    }
}

/// A branch, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) struct BranchRow {
    /// The mount that it was made through.
    pub(in crate::sidecar) mount: String,
    /// Unique in its volume.
    pub(in crate::sidecar) name: String,
    /// Which store this mount was of.
    pub(in crate::sidecar) place: String,
    /// The directory it was made from; not known of one that was found.
    pub(in crate::sidecar) project: Option<String>,
    pub(in crate::sidecar) state: RowState,
    pub(in crate::sidecar) created_ms: u64,
    pub(in crate::sidecar) used_ms: u64,
    /// When its local copies were dropped, unless it was used since.
    pub(in crate::sidecar) dropped_ms: Option<u64>,
}

impl Store {
    /// All branches, by mount and name.
    ///
    /// # Errors
    /// As all of these: [`ApiError::DatabaseUnavailable`].
    pub(in crate::sidecar) async fn branches(&self) -> Result<Vec<BranchRow>, ApiError> {
        self.look(|open| {
            let mut statement = open.db.prepare_cached(
                "SELECT mount, name, place, project, state, created_ms, used_ms, dropped_ms FROM branch \
                 ORDER BY mount, name",
            )?;
            let rows = statement.query_map((), branch)?;
            rows.collect()
        })
        .await
    }

    /// Writes a branch, in place of what had its name.
    pub(in crate::sidecar) async fn put_branch(&self, row: BranchRow) -> Result<(), ApiError> {
        self.run(move |open| {
            open.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO branch \
                     (mount, name, place, project, state, created_ms, used_ms, dropped_ms) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    row.mount,
                    row.name,
                    row.place,
                    row.project,
                    row.state.text(),
                    signed(row.created_ms),
                    signed(row.used_ms),
                    row.dropped_ms.map(signed),
                ])
                .map(drop)
        })
        .await
    }

    /// Notes that a branch is used, or that its local copies were dropped; one that is not there is no error.
    pub(in crate::sidecar) async fn mark_branch(
        &self,
        mount: &str,
        name: &str,
        mark: Mark,
    ) -> Result<(), ApiError> {
        let (mount, name) = (mount.to_owned(), name.to_owned());
        self.run(move |open| {
            let (sql, at_ms) = match mark {
                Mark::Used(at_ms) => (
                    "UPDATE branch SET used_ms = max(used_ms, ?3), dropped_ms = NULL WHERE mount = ?1 AND name = ?2",
                    at_ms,
                ),
                Mark::Dropped(at_ms) => (
                    "UPDATE branch SET dropped_ms = ?3 WHERE mount = ?1 AND name = ?2",
                    at_ms,
                ),
            };
            open.db
                .prepare_cached(sql)?
                .execute(params![mount, name, signed(at_ms)])
                .map(drop)
        })
        .await
    }

    /// Forgets a branch; one that is not there is no error.
    pub(in crate::sidecar) async fn remove_branch(
        &self,
        mount: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let (mount, name) = (mount.to_owned(), name.to_owned());
        self.run(move |open| {
            open.db
                .prepare_cached("DELETE FROM branch WHERE mount = ?1 AND name = ?2")?
                .execute([mount, name])
                .map(drop)
        })
        .await
    }
}

/// What is noted of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sidecar) enum Mark {
    /// Used at this time, milliseconds since 1970.
    Used(u64),
    /// Its local copies were dropped then.
    Dropped(u64),
}

fn branch(row: &Row<'_>) -> rusqlite::Result<BranchRow> {
    let state: String = row.get(4)?;
    let state = RowState::ALL.into_iter().find(|one| one.text() == state);
    let unknown = || {
        let error = "this is no state of a branch".into();
        rusqlite::Error::FromSqlConversionFailure(4, Type::Text, error)
    };
    Ok(BranchRow {
        mount: row.get(0)?,
        name: row.get(1)?,
        place: row.get(2)?,
        project: row.get(3)?,
        state: state.ok_or_else(unknown)?,
        created_ms: unsigned(row.get(5)?),
        used_ms: unsigned(row.get(6)?),
        dropped_ms: row.get::<_, Option<i64>>(7)?.map(unsigned),
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_branch_is_remembered_marked_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let row = |name: &str, state| BranchRow {
            mount: "m".into(),
            name: name.into(),
            place: "p".into(),
            project: Some("app".into()),
            state,
            created_ms: 5,
            used_ms: 5,
            dropped_ms: None,
        };
        for (name, state) in ["c", "b", "a"].into_iter().zip(RowState::ALL) {
            store.put_branch(row(name, state)).await.unwrap();
        }
        store
            .put_branch(row("b", RowState::Removing))
            .await
            .unwrap();
        store.mark_branch("m", "a", Mark::Dropped(9)).await.unwrap();
        store.mark_branch("m", "c", Mark::Dropped(9)).await.unwrap();
        store.mark_branch("m", "c", Mark::Used(7)).await.unwrap();
        store.mark_branch("m", "c", Mark::Used(6)).await.unwrap();
        store.mark_branch("n", "c", Mark::Used(99)).await.unwrap();
        let expected = [
            BranchRow {
                dropped_ms: Some(9),
                ..row("a", RowState::Removing)
            },
            row("b", RowState::Removing),
            BranchRow {
                used_ms: 7,
                ..row("c", RowState::Creating)
            },
        ];
        assert_eq!(store.branches().await.unwrap(), expected);
        store.remove_branch("m", "b").await.unwrap();
        store.remove_branch("m", "b").await.unwrap();
        assert_eq!(store.branches().await.unwrap().len(), 2);
    }
}
