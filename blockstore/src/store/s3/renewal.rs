//! Keys that are looked for as AWS' tools do, and looked for again before they are over. Looks at no file itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use tokio::sync::Mutex;

/// How long keys that do not say when they end are used before they are looked for again.
const LIFE: Duration = Duration::from_secs(30);

/// Makes a provider that has seen nothing yet.
type Make =
    dyn Fn() -> Pin<Box<dyn Future<Output = SharedCredentialsProvider> + Send>> + Send + Sync;

/// Asks a provider. Those of the SDK read configuration files once and for all; so where keys came without an end, from
/// such a file, the next to be asked is a new one.
pub(super) struct Renewed {
    make: Box<Make>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One whose keys end, and that knows how to renew them.
    provider: Option<SharedCredentialsProvider>,
    /// The last keys without an end.
    last: Option<Credentials>,
}

impl Renewed {
    pub(super) fn new(
        make: impl Fn() -> Pin<Box<dyn Future<Output = SharedCredentialsProvider> + Send>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            make: Box::new(make),
            state: Mutex::default(),
        }
    }

    async fn load(&self) -> provider::Result {
        let mut state = self.state.lock().await;
        let provider = match state.provider.take() {
            Some(provider) => provider,
            None => (self.make)().await,
        };
        let mut keys = match (provider.provide_credentials().await, &state.last) {
            (Ok(keys), _) => keys,
            (Err(error), Some(last)) => {
                tracing::warn!(%error, "no keys are found any more, the last ones are used on");
                last.clone()
            }
            (Err(error), None) => return Err(error),
        };
        if keys.expiry().is_some() {
            state.provider = Some(provider);
            state.last = None;
        } else {
            state.last = Some(keys.clone());
            *keys.expiry_mut() = Some(SystemTime::now() + LIFE);
        }
        Ok(keys)
    }
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

impl ProvideCredentials for Renewed {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_credential_types::provider::error::CredentialsError;

    use super::*;

    /// Keys as a configuration file held them when they were asked for first.
    #[derive(Debug)]
    struct Once(provider::Result);

    impl Once {
        fn read(path: &Path) -> Self {
            let read = std::fs::read_to_string(path).map_err(CredentialsError::not_loaded);
            Self(read.map(|id| Credentials::new(id, "s", None, None, "test")))
        }
    }

    impl ProvideCredentials for Once {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::ready(match &self.0 {
                Ok(keys) => Ok(keys.clone()),
                Err(_) => Err(CredentialsError::not_loaded("nothing there")),
            })
        }
    }

    fn of_file(path: PathBuf) -> Renewed {
        Renewed::new(move || {
            let read = Once::read(&path);
            Box::pin(async { SharedCredentialsProvider::new(read) })
        })
    }

    #[tokio::test]
    async fn a_file_is_looked_at_again_and_while_that_fails_the_last_keys_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        let renewed = of_file(path.clone());
        assert!(renewed.load().await.is_err());
        std::fs::write(&path, "one").unwrap();
        let first = renewed.load().await.unwrap();
        assert_eq!(first.access_key_id(), "one");
        assert!(first.expiry().unwrap() <= SystemTime::now() + LIFE);
        std::fs::write(&path, "two").unwrap();
        assert_eq!(renewed.load().await.unwrap().access_key_id(), "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(renewed.load().await.unwrap().access_key_id(), "two");
    }

    #[tokio::test]
    async fn a_provider_whose_keys_end_is_asked_again() {
        #[derive(Debug)]
        struct Ending;
        impl ProvideCredentials for Ending {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                let end = SystemTime::now() + Duration::from_secs(900);
                let keys = Credentials::new("i", "s", None, Some(end), "test");
                future::ProvideCredentials::ready(Ok(keys))
            }
        }
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let renewed = Renewed::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { SharedCredentialsProvider::new(Ending) })
        });
        for _ in 0..3 {
            let end = renewed.load().await.unwrap().expiry().unwrap();
            assert!(end > SystemTime::now() + LIFE, "its own end counts");
        }
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
