//! How a bucket is reached: what the options say, then what the environment says, then the defaults. Asks nobody.

use std::fmt;
use std::path::PathBuf;

use crate::environment::Variables;
use crate::failure::Failure;
use crate::options::{Addressing, S3Options, is_endpoint};

/// Tigris, from anywhere.
const ENDPOINT: &str = "https://t3.storage.dev";
/// Tigris, from a machine at Fly.
const ENDPOINT_AT_FLY: &str = "https://fly.storage.tigris.dev";
/// Set on every machine at Fly.
const FLY: &str = "FLY_APP_NAME";
const REGION: &str = "auto";

/// A bucket, or a prefix in one, and the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketAccess {
    pub(crate) bucket: String,
    /// Empty for all of it.
    pub(crate) prefix: String,
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) addressing: Addressing,
    pub(crate) keys: Keys,
}

/// Where keys come from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Keys {
    Given {
        access_key_id: String,
        secret_access_key: String,
        session_token: Option<String>,
    },
    File(PathBuf),
    Profile(String),
    /// Wherever AWS' tools look when they are told nothing.
    Chain,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the secrets.
        f.write_str(match self {
            Self::Given { .. } => "Given",
            Self::File(_) => "File",
            Self::Profile(_) => "Profile",
            Self::Chain => "Chain",
        })
    }
}

impl BucketAccess {
    /// The way to `bucket`.
    ///
    /// # Errors
    /// [`Failure::Invocation`] that names the option or variable.
    pub(crate) fn resolve(
        bucket: &str,
        prefix: &str,
        options: &S3Options,
        variables: &Variables,
    ) -> Result<Self, Failure> {
        let first = |names: &[&'static str]| {
            names
                .iter()
                .find_map(|name| Some((*name, variables.get(name)?)))
        };
        let default = match variables.get(FLY) {
            Some(_) => ENDPOINT_AT_FLY,
            None => ENDPOINT,
        };
        let named = first(&["S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
        let endpoint = match (&options.endpoint, named) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some((name, endpoint))) if !is_endpoint(endpoint) => {
                return Err(Failure::Invocation(format!(
                    "variable {name} takes http:// or https://, a host and maybe a port, not {endpoint:?}"
                )));
            }
            (None, Some((_, endpoint))) => endpoint.to_owned(),
            (None, None) => default.to_owned(),
        };
        let region = options.region.clone().or_else(|| {
            let (_, region) = first(&["S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"])?;
            Some(region.to_owned())
        });
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint,
            region: region.unwrap_or_else(|| REGION.to_owned()),
            addressing: options.addressing,
            keys: keys(options, variables)?,
        })
    }
}

/// The keys of the first source that has any. Halves of different sources are never put together.
fn keys(options: &S3Options, variables: &Variables) -> Result<Keys, Failure> {
    let of = |name: &str| variables.get(name).map(str::to_owned);
    let given = pair(
        ("option access_key_id", options.access_key_id.clone()),
        ("secret_access_key", options.secret_access_key.clone()),
        options.session_token.clone(),
    )?;
    if let Some(keys) = given {
        return Ok(keys);
    }
    if let Some(file) = &options.credentials_file {
        return Ok(Keys::File(file.clone()));
    }
    if let Some(profile) = &options.profile {
        return Ok(Keys::Profile(profile.clone()));
    }
    for (id, secret, token) in [
        (
            "S3_ACCESS_KEY_ID",
            "S3_SECRET_ACCESS_KEY",
            "S3_SESSION_TOKEN",
        ),
        (
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
        ),
    ] {
        if let Some(keys) = pair((id, of(id)), (secret, of(secret)), of(token))? {
            return Ok(keys);
        }
    }
    Ok(of("AWS_PROFILE").map_or(Keys::Chain, Keys::Profile))
}

fn pair(
    id: (&str, Option<String>),
    secret: (&str, Option<String>),
    session_token: Option<String>,
) -> Result<Option<Keys>, Failure> {
    match (id, secret) {
        ((_, None), (_, None)) => Ok(None),
        ((_, Some(access_key_id)), (_, Some(secret_access_key))) => Ok(Some(Keys::Given {
            access_key_id,
            secret_access_key,
            session_token,
        })),
        ((id, there), (secret, _)) => {
            let (given, missing) = match there {
                Some(_) => (id, secret),
                None => (secret, id),
            };
            Err(Failure::Invocation(format!(
                "{given} is given and {missing} is not; give both"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        options: &S3Options,
        variables: &[(&'static str, &str)],
    ) -> Result<BucketAccess, Failure> {
        let variables = Variables::of(variables.iter().copied());
        BucketAccess::resolve("bucket", "", options, &variables)
    }

    fn plain(variables: &[(&'static str, &str)]) -> BucketAccess {
        resolve(&S3Options::default(), variables).unwrap()
    }

    fn given(id: &str, secret: &str, token: Option<&str>) -> Keys {
        Keys::Given {
            access_key_id: id.into(),
            secret_access_key: secret.into(),
            session_token: token.map(str::to_owned),
        }
    }

    #[test]
    fn the_endpoint_is_tigris_unless_told_otherwise() {
        assert_eq!(plain(&[]).endpoint, "https://t3.storage.dev");
        assert_eq!(
            plain(&[(FLY, "app")]).endpoint,
            "https://fly.storage.tigris.dev"
        );
        let both = [
            ("S3_ENDPOINT", "http://a"),
            ("AWS_ENDPOINT_URL", "http://b"),
            (FLY, "x"),
        ];
        assert_eq!(plain(&both).endpoint, "http://a");
        assert_eq!(plain(&both[1..]).endpoint, "http://b");
        let option = S3Options {
            endpoint: Some("http://o".into()),
            ..S3Options::default()
        };
        assert_eq!(resolve(&option, &both).unwrap().endpoint, "http://o");
        let error = resolve(&S3Options::default(), &[("S3_ENDPOINT", "host:1")]).unwrap_err();
        assert!(
            error.to_string().contains("S3_ENDPOINT takes http://"),
            "{error}"
        );
    }

    #[test]
    fn the_region_is_auto_unless_told_otherwise() {
        assert_eq!(plain(&[]).region, "auto");
        assert_eq!(plain(&[("AWS_DEFAULT_REGION", "x")]).region, "x");
        assert_eq!(
            plain(&[("AWS_REGION", "y"), ("S3_REGION", "z")]).region,
            "z"
        );
    }

    #[test]
    fn keys_come_from_the_first_source_that_has_any() {
        let s3 = [("S3_ACCESS_KEY_ID", "i"), ("S3_SECRET_ACCESS_KEY", "s")];
        let aws = [
            ("AWS_ACCESS_KEY_ID", "ai"),
            ("AWS_SECRET_ACCESS_KEY", "as"),
            ("AWS_SESSION_TOKEN", "at"),
        ];
        assert_eq!(plain(&[]).keys, Keys::Chain);
        assert_eq!(
            plain(&[("AWS_PROFILE", "p")]).keys,
            Keys::Profile("p".into())
        );
        assert_eq!(plain(&aws).keys, given("ai", "as", Some("at")));
        assert_eq!(
            plain(&[s3, [aws[0], aws[1]]].concat()).keys,
            given("i", "s", None)
        );
        let file = S3Options {
            credentials_file: Some("/f".into()),
            ..S3Options::default()
        };
        assert_eq!(resolve(&file, &s3).unwrap().keys, Keys::File("/f".into()));
        let profile = S3Options {
            profile: Some("q".into()),
            ..S3Options::default()
        };
        assert_eq!(
            resolve(&profile, &s3).unwrap().keys,
            Keys::Profile("q".into())
        );
        let option = S3Options {
            access_key_id: Some("o".into()),
            secret_access_key: Some("p".into()),
            ..file
        };
        assert_eq!(resolve(&option, &s3).unwrap().keys, given("o", "p", None));
    }

    #[test]
    fn half_a_pair_of_keys_is_refused_by_name() {
        for (variables, parts) in [
            (
                [("S3_ACCESS_KEY_ID", "i")],
                ["S3_ACCESS_KEY_ID is given", "S3_SECRET_ACCESS_KEY is not"],
            ),
            (
                [("AWS_SECRET_ACCESS_KEY", "s")],
                ["AWS_SECRET_ACCESS_KEY is given", "AWS_ACCESS_KEY_ID is not"],
            ),
        ] {
            let error = resolve(&S3Options::default(), &variables)
                .unwrap_err()
                .to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let access = plain(&[
            ("S3_ACCESS_KEY_ID", "i"),
            ("S3_SECRET_ACCESS_KEY", "hidden"),
        ]);
        assert!(!format!("{access:?}").contains("hidden"));
    }
}
