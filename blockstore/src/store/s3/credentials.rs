//! Where the keys of an S3 store come from. Secrets are never shown, in no message and in no debug output.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::Region;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use parking_lot::Mutex;

use super::renewal::Renewed;
use crate::store::StoreError;

/// Most bytes of a credentials file.
const FILE_MAX_BYTES: u64 = 64 << 10;

/// Where keys come from.
#[derive(Clone, PartialEq, Eq)]
pub enum S3Credentials {
    /// These.
    Keys {
        /// The access key's id.
        access_key_id: String,
        /// Its secret.
        secret_access_key: String,
        /// The token of a temporary key.
        session_token: Option<String>,
    },
    /// A file with lines `access_key_id = ...`, `secret_access_key = ...` and maybe `session_token = ...`. It is read
    /// again for every request.
    File(PathBuf),
    /// A profile of AWS' configuration files. These are read again every half minute.
    Profile(String),
    /// What AWS' tools do when told nothing: environment, configuration files, web identity, container, instance. Keys
    /// that end are renewed before they do; configuration files are read again every half minute.
    Chain,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { access_key_id, .. } => f
                .debug_struct("Keys")
                .field("access_key_id", access_key_id)
                .finish_non_exhaustive(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Profile(name) => f.debug_tuple("Profile").field(name).finish(),
            Self::Chain => f.write_str("Chain"),
        }
    }
}

impl S3Credentials {
    /// What to check when the keys are refused.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Keys { .. } => {
                "check S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY (-o access_key_id=, secret_access_key=)".into()
            }
            Self::File(path) => format!("check the keys in {} (-o credentials_file=)", path.display()),
            Self::Profile(name) => format!("check the profile {name:?} (-o profile=, AWS_PROFILE)"),
            Self::Chain => {
                "no keys were given: set S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY, or use -o credentials_file= or profile="
                    .into()
            }
        }
    }

    /// The provider that the client asks.
    pub(super) async fn provider(
        &self,
        http: &SharedHttpClient,
        region: &str,
    ) -> Result<SharedCredentialsProvider, StoreError> {
        let (http, region) = (http.clone(), Region::new(region.to_owned()));
        // One for each look: copies share what was read from configuration files.
        let config = move || {
            ProviderConfig::without_region()
                .with_http_client(http.clone())
                .with_region(Some(region.clone()))
        };
        Ok(match self {
            Self::Keys {
                access_key_id,
                secret_access_key,
                session_token,
            } => SharedCredentialsProvider::new(Credentials::new(
                access_key_id,
                secret_access_key,
                session_token.clone(),
                None,
                "settings",
            )),
            // Now, so that a wrong file is named before anything is asked.
            Self::File(path) => SharedCredentialsProvider::new(
                FromFile::open(path).map_err(|what| StoreError::Invalid { what })?,
            ),
            Self::Profile(name) => {
                let name = name.clone();
                SharedCredentialsProvider::new(Renewed::new(move || {
                    let profile = ProfileFileCredentialsProvider::builder()
                        .profile_name(name.clone())
                        .configure(&config())
                        .build();
                    Box::pin(async { SharedCredentialsProvider::new(profile) })
                }))
            }
            Self::Chain => SharedCredentialsProvider::new(Renewed::new(move || {
                let chain = DefaultCredentialsChain::builder().configure(config());
                Box::pin(async { SharedCredentialsProvider::new(chain.build().await) })
            })),
        })
    }
}

/// Reads its file again for every request, which costs nothing beside one. While that fails, as when the file is just
/// being written, the keys that were in it last are used.
#[derive(Debug)]
struct FromFile {
    path: PathBuf,
    last: Mutex<Credentials>,
    /// Whether the newest reading failed and was said to have.
    failing: AtomicBool,
}

impl ProvideCredentials for FromFile {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.load()))
    }
}

impl FromFile {
    fn open(path: &Path) -> Result<Self, String> {
        Ok(Self {
            last: Mutex::new(read_file(path)?.into()),
            path: path.to_owned(),
            failing: AtomicBool::new(false),
        })
    }

    fn load(&self) -> Credentials {
        let read = read_file(&self.path);
        let failed_before = self.failing.swap(read.is_err(), Ordering::Relaxed);
        let mut last = self.last.lock();
        match read {
            Ok(keys) => *last = keys.into(),
            Err(what) if !failed_before => tracing::warn!(what, "the last keys are used on"),
            Err(_) => {}
        }
        let mut keys = last.clone();
        // Over at once: so the next request asks again.
        *keys.expiry_mut() = Some(SystemTime::now());
        keys
    }
}

impl From<FileKeys> for Credentials {
    fn from(keys: FileKeys) -> Self {
        Self::new(keys.id, keys.secret, keys.token, None, "credentials file")
    }
}

struct FileKeys {
    id: String,
    secret: String,
    token: Option<String>,
}

/// Reads a credentials file that nobody else can read. The error says what to do.
fn read_file(path: &Path) -> Result<FileKeys, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| {
        format!("the credentials file {shown} cannot be read: {error} (-o credentials_file=)")
    };
    let info = std::fs::metadata(path).map_err(failed)?;
    if !info.is_file() || info.len() > FILE_MAX_BYTES {
        return Err(format!(
            "the credentials file {shown} is no small file (-o credentials_file=)"
        ));
    }
    let mode = info.mode() & 0o7777;
    if !matches!(mode, 0o600 | 0o400) {
        return Err(format!(
            "the credentials file {shown} has mode {mode:04o}, so others may read it; run: chmod 600 {shown}"
        ));
    }
    parse(&std::fs::read_to_string(path).map_err(failed)?)
        .map_err(|fault| format!("the credentials file {shown} {fault}"))
}

fn parse(text: &str) -> Result<FileKeys, String> {
    let (mut id, mut secret, mut token) = (None, None, None);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '[']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let fault = || {
            let number = number + 1;
            format!(
                "has a line {number} that is not understood: it takes access_key_id, secret_access_key or session_token, = and the value"
            )
        };
        let (name, value) = line.split_once('=').ok_or_else(fault)?;
        let name = name.trim().to_ascii_lowercase();
        let name = name
            .strip_prefix("aws_")
            .or_else(|| name.strip_prefix("s3_"))
            .unwrap_or(&name);
        let place = match name {
            "access_key_id" => &mut id,
            "secret_access_key" => &mut secret,
            "session_token" => &mut token,
            _ => return Err(fault()),
        };
        if place.is_some() {
            return Err(format!("names {name} twice; a file holds one pair of keys"));
        }
        *place = Some(value.trim().trim_matches('"').to_owned());
    }
    let missing = |name: &str| format!("has no {name}");
    Ok(FileKeys {
        id: id
            .filter(|v| !v.is_empty())
            .ok_or_else(|| missing("access_key_id"))?,
        secret: secret
            .filter(|v| !v.is_empty())
            .ok_or_else(|| missing("secret_access_key"))?,
        token: token.filter(|v| !v.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_taken_only_when_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let text = "[default]\naws_access_key_id = AK\nAWS_SECRET_ACCESS_KEY=\"SE=C\"\n# x\nsession_token=T\n";
        std::fs::write(&path, text).unwrap();
        for (mode, fine) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o644, false),
            (0o700, false),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match read_file(&path) {
                Ok(keys) => {
                    assert!(fine, "{mode:o}");
                    assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("AK", "SE=C"));
                    assert_eq!(keys.token.as_deref(), Some("T"));
                }
                Err(error) => {
                    assert!(!fine, "{mode:o}: {error}");
                    assert!(error.contains("chmod 600"), "{error}");
                }
            }
        }
        assert!(read_file(&dir.path().join("none")).is_err());
        assert!(read_file(dir.path()).is_err());
    }

    #[test]
    fn a_file_is_read_again_and_while_that_fails_the_last_keys_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let write = |id: &str, mode: u32| {
            std::fs::write(&path, format!("access_key_id={id}\nsecret_access_key=s\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert!(FromFile::open(&path).is_err());
        write("one", 0o600);
        let file = FromFile::open(&path).unwrap();
        assert_eq!(file.load().access_key_id(), "one");
        write("two", 0o600);
        assert_eq!(file.load().access_key_id(), "two");
        write("three", 0o644);
        assert_eq!(file.load().access_key_id(), "two");
        std::fs::write(&path, "access_key_id=thr").unwrap();
        assert_eq!(file.load().access_key_id(), "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.load().access_key_id(), "two");
        write("four", 0o400);
        assert_eq!(file.load().access_key_id(), "four");
        let ends = file.load().expiry().unwrap();
        assert!(
            ends <= SystemTime::now(),
            "nothing keeps them any longer than a request"
        );
    }

    #[test]
    fn faults_of_a_file_are_named_without_its_secrets() {
        for (text, part) in [
            ("", "no access_key_id"),
            ("access_key_id=a", "no secret_access_key"),
            ("access_key_id=\nsecret_access_key=b", "no access_key_id"),
            ("secret", "line 1"),
            ("\nfoo=hidden", "line 2"),
            ("access_key_id=a\nS3_ACCESS_KEY_ID=b", "twice"),
        ] {
            let error = parse(text).err().unwrap();
            assert!(
                error.contains(part) && !error.contains("hidden"),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = S3Credentials::Keys {
            access_key_id: "ID".into(),
            secret_access_key: "HIDDEN".into(),
            session_token: Some("HIDDEN".into()),
        };
        let shown = format!("{keys:?}");
        assert!(shown.contains("ID") && !shown.contains("HIDDEN"), "{shown}");
    }
}
