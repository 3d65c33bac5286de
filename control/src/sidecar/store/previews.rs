//! The rows of previews: what was asked for, and how far it is, before anything of it is done.

use rusqlite::{Row, params};

use super::Store;
use crate::error::ApiError;

/// A preview as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar) struct KeptPreview {
    pub(in crate::sidecar) id: String,
    pub(in crate::sidecar) mount: String,
    /// The project's folder below it.
    pub(in crate::sidecar) folder: String,
    /// The sandbox that runs it, or is about to.
    pub(in crate::sidecar) sandbox: Option<String>,
    /// All else, as JSON. Holds no secret.
    pub(in crate::sidecar) data: String,
}

impl Store {
    /// All previews.
    pub(in crate::sidecar) async fn previews(&self) -> Result<Vec<KeptPreview>, ApiError> {
        self.look(|open| {
            let mut statement = open.db.prepare_cached(
                "SELECT id, mount, folder, sandbox, data FROM preview ORDER BY id",
            )?;
            let rows = statement.query_map((), kept)?;
            rows.collect()
        })
        .await
    }

    /// Writes a preview, in place of what was there for its folder.
    pub(in crate::sidecar) async fn put_preview(
        &self,
        preview: KeptPreview,
    ) -> Result<(), ApiError> {
        self.run(move |open| {
            open.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO preview (id, mount, folder, sandbox, data) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    preview.id,
                    preview.mount,
                    preview.folder,
                    preview.sandbox,
                    preview.data,
                ])
                .map(drop)
        })
        .await
    }

    /// Forgets a preview; one that is not there is no error.
    pub(in crate::sidecar) async fn remove_preview(&self, id: &str) -> Result<(), ApiError> {
        let id = id.to_owned();
        self.run(move |open| {
            open.db
                .prepare_cached("DELETE FROM preview WHERE id = ?1")?
                .execute([id])
                .map(drop)
        })
        .await
    }
}

fn kept(row: &Row<'_>) -> rusqlite::Result<KeptPreview> {
    Ok(KeptPreview {
        id: row.get(0)?,
        mount: row.get(1)?,
        folder: row.get(2)?,
        sandbox: row.get(3)?,
        data: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_one_for_each_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let preview = KeptPreview {
            id: "preview-1".into(),
            mount: "m".into(),
            folder: "app".into(),
            sandbox: None,
            data: "{}".into(),
        };
        store.put_preview(preview.clone()).await.unwrap();
        let again = KeptPreview {
            sandbox: Some("preview-1-1".into()),
            ..preview.clone()
        };
        store.put_preview(again.clone()).await.unwrap();
        assert_eq!(store.previews().await.unwrap(), [again]);
        let other = KeptPreview {
            id: "preview-2".into(),
            ..preview
        };
        store.put_preview(other.clone()).await.unwrap();
        assert_eq!(store.previews().await.unwrap(), [other]);
        store.remove_preview("preview-2").await.unwrap();
        store.remove_preview("preview-2").await.unwrap();
        assert_eq!(store.previews().await.unwrap(), []);
    }
}
