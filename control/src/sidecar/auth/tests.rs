use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use super::super::host::WallClock;
use super::super::limits::Rates;
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn auth(dir: &Path, secret: Option<&str>, jwks: Option<PathBuf>) -> Auth {
    let settings = AuthSettings {
        token_file: dir.join("tokens"),
        session_secret: secret.map(str::to_owned),
        jwks_file: jwks,
    };
    Auth::new(&settings, 7, Arc::new(WallClock), kernel_random).unwrap()
}

fn limits() -> Limits {
    Limits::new(Rates::default())
}

fn headers(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::AUTHORIZATION,
        format!("Bearer {token}").parse().unwrap(),
    );
    headers
}

fn ask(auth: &Auth, token: &str) -> Result<Identity, ApiError> {
    let caller = Caller::Tcp("127.0.0.1:9".parse().unwrap());
    auth.identify(caller, &Method::GET, &headers(token), &limits())
}

fn in_an_hour() -> u64 {
    WallClock.now_ms() / 1000 + 3600
}

fn signed(claims: &serde_json::Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

#[test]
fn a_session_signed_with_the_secret_is_taken_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path(), Some(SECRET), None);
    assert!(auth.can_serve_tcp());
    let good = signed(&json!({"sub": "user 1", "exp": in_an_hour()}), SECRET);
    for _ in 0..2 {
        assert_eq!(
            ask(&auth, &good),
            Ok(Identity::Token {
                id: "session:user1".into()
            })
        );
    }
    let by_session = signed(
        &json!({"session": {"userId": "u2"}, "user": {"id": "u2"}, "exp": in_an_hour()}),
        SECRET,
    );
    assert_eq!(
        ask(&auth, &by_session),
        Ok(Identity::Token {
            id: "session:u2".into()
        })
    );

    let parts: Vec<&str> = good.split('.').collect();
    let none = |alg: &str| {
        let header = base64_url(format!("{{\"alg\":\"{alg}\",\"typ\":\"JWT\"}}").as_bytes());
        format!("{header}.{}.", parts[1])
    };
    let other_claims = base64_url(
        json!({"sub": "root", "exp": in_an_hour()})
            .to_string()
            .as_bytes(),
    );
    let forged = [
        signed(
            &json!({"sub": "u", "exp": in_an_hour()}),
            "another secret of many bytes......",
        ),
        signed(&json!({"sub": "u", "exp": 1000}), SECRET),
        signed(&json!({"sub": "u"}), SECRET),
        // Signed for something else: they name nobody.
        signed(&json!({"exp": in_an_hour()}), SECRET),
        signed(
            &json!({"email": "u@example.com", "exp": in_an_hour()}),
            SECRET,
        ),
        signed(&json!({"sub": "", "exp": in_an_hour()}), SECRET),
        signed(&json!({"sub": " \n", "exp": in_an_hour()}), SECRET),
        signed(
            &json!({"session": {"userId": 7}, "exp": in_an_hour()}),
            SECRET,
        ),
        signed(&json!({"session": "u", "exp": in_an_hour()}), SECRET),
        signed(&json!({"sub": "u", "exp": "9999999999"}), SECRET),
        signed(
            &json!({"sub": "u", "exp": in_an_hour(), "nbf": in_an_hour()}),
            SECRET,
        ),
        signed(
            &json!({"sub": "u", "exp": in_an_hour(), "nbf": "9999999999"}),
            SECRET,
        ),
        none("none"),
        none("None"),
        none("HS256"),
        format!("{}.{other_claims}.{}", parts[0], parts[2]),
        format!("{}.{}", parts[0], parts[1]),
        "x".into(),
        "a.b.c".into(),
    ];
    for token in forged {
        let error = ask(&auth, &token).unwrap_err();
        assert_eq!(error.code(), "unauthorized", "{token}");
        assert!(
            token.len() < 9 || !error.to_string().contains(&token),
            "{error}"
        );
    }
}

/// Just enough to build tokens that no library would build.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for n in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * n)) as usize & 63]));
        }
    }
    text
}

/// RFC 8037, appendix A: a key pair for examples.
const ED25519_PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn ed25519_private() -> EncodingKey {
    let seed = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];
    // PKCS #8: version, the algorithm's name, and the seed.
    let mut der = vec![
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    der.extend_from_slice(&seed);
    EncodingKey::from_ed_der(&der)
}

fn by_ed25519(kid: Option<&str>) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = kid.map(str::to_owned);
    let claims = json!({"sub": "u", "exp": in_an_hour()});
    encode(&header, &claims, &ed25519_private()).unwrap()
}

#[test]
fn public_keys_check_sessions_and_are_never_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": ED25519_PUBLIC, "kid": "k1"});
    let write =
        |keys: serde_json::Value| std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    write(json!([key]));
    let auth = auth(dir.path(), None, Some(file.clone()));
    assert!(ask(&auth, &by_ed25519(Some("k1"))).is_ok());
    assert!(ask(&auth, &by_ed25519(None)).is_ok());
    assert!(ask(&auth, &by_ed25519(Some("k2"))).is_err());
    // The public key as the secret of HS256, the classic.
    let confused = signed(&json!({"sub": "root", "exp": in_an_hour()}), ED25519_PUBLIC);
    assert!(ask(&auth, &confused).is_err());

    // A key that is taken out of the file lets nobody in any more, sessions that were good before included.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let other = json!({"kty": "OKP", "crv": "Ed25519", "x": "-A6Xp6wBk5Nvc9A6gsTS-Hbn8rDyPXd2dOXwOF0lJ9A", "kid": "k9"});
    write(json!([other]));
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(later)
        .unwrap();
    assert!(ask(&auth, &by_ed25519(Some("k1"))).is_err());
    std::fs::write(&file, "{").unwrap();
    assert!(ask(&auth, &by_ed25519(Some("k1"))).is_err());
}

#[test]
fn settings_that_protect_nothing_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let with = |secret: Option<&str>, jwks: Option<&str>| {
        let file = jwks.map(|text| {
            let file = dir.path().join("jwks.json");
            std::fs::write(&file, text).unwrap();
            file
        });
        let settings = AuthSettings {
            token_file: dir.path().join("tokens"),
            session_secret: secret.map(str::to_owned),
            jwks_file: file,
        };
        Auth::new(&settings, 7, Arc::new(WallClock), kernel_random)
            .err()
            .map(|error| error.to_string())
    };
    assert!(with(Some("short"), None).unwrap().contains("32 bytes"));
    assert!(with(None, Some("{}")).unwrap().contains("cannot be used"));
    let symmetric = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;
    assert!(with(None, Some(symmetric)).unwrap().contains("no key for"));
    assert_eq!(with(None, None), None);
    assert!(!auth(dir.path(), None, None).can_serve_tcp());
    let shown = format!(
        "{:?}",
        AuthSettings {
            session_secret: Some("hidden".into()),
            ..AuthSettings::default()
        }
    );
    assert!(!shown.contains("hidden"));
}

#[test]
fn guessing_is_slowed_down_and_a_good_token_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path(), Some(SECRET), None);
    let made = TokenFile::new(dir.path().join("tokens"))
        .create("n", 5, None, [7; 40])
        .unwrap();
    let limits = limits();
    let ask = |token: &str| {
        let caller = Caller::Tcp("127.0.0.1:9".parse().unwrap());
        auth.identify(caller, &Method::GET, &headers(token), &limits)
    };
    let codes: Vec<_> = (0..50)
        .map(|_| ask("weldr_guess").unwrap_err().code())
        .collect();
    assert_eq!(codes[0], "unauthorized");
    assert_eq!(codes[49], "rate_limited");
    assert!(ask(&made.token).is_ok());
}

#[test]
fn a_head_that_is_not_one_bearer_token_is_refused_and_none_is_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path(), Some(SECRET), None);
    let caller = Caller::Tcp("127.0.0.1:9".parse().unwrap());
    assert_eq!(
        auth.identify(caller, &Method::GET, &HeaderMap::new(), &limits()),
        Ok(Identity::Nobody)
    );
    for value in [
        "Basic dTpw",
        "Bearer",
        "Bearer ",
        "token",
        &format!("Bearer {}", "x".repeat(TOKEN_MAX + 1)),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        let error = auth
            .identify(caller, &Method::GET, &headers, &limits())
            .unwrap_err();
        assert_eq!(error.code(), "unauthorized", "{value:.20}");
    }
    let mut twice = headers("a");
    twice.append(header::AUTHORIZATION, "Bearer b".parse().unwrap());
    assert!(
        auth.identify(caller, &Method::GET, &twice, &limits())
            .is_err()
    );
}

#[test]
fn the_socket_is_for_its_group() {
    let dir = tempfile::tempdir().unwrap();
    let auth = auth(dir.path(), None, None);
    let process = |uid, gid| {
        Caller::Unix(Some(UnixCaller {
            uid,
            gid,
            pid: None,
        }))
    };
    let none = HeaderMap::new();
    assert_eq!(
        auth.identify(process(0, 0), &Method::GET, &none, &limits()),
        Ok(Identity::Local { uid: 0 })
    );
    assert!(
        auth.identify(process(4_000_000, 7), &Method::GET, &none, &limits())
            .is_ok()
    );
    for stranger in [process(4_000_000, 8), Caller::Unix(None)] {
        assert_eq!(
            auth.identify(stranger, &Method::GET, &none, &limits())
                .unwrap_err()
                .code(),
            "forbidden"
        );
    }
}
