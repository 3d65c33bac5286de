//! Sessions of the real Better Auth library (npm, pinned by the lock file beside this): what it mints is taken, and what
//! is made to look like it is not.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::access::free_port;
use crate::sidecar::{Response, Sidecar, ask_tcp};
use crate::support::Answer;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Header and claims of what nobody signed.
const UNSIGNED: &str = r#"{"alg":"none","typ":"JWT"}"#;

/// The library, installed once for all runs. Another lock file makes another folder.
fn library() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control/better_auth");
    let inputs = std::env::var_os("WELDRFS_INPUTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/inputs"),
        PathBuf::from,
    );
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(here.join("package.json")).unwrap()).unwrap();
    let version = manifest["dependencies"]["better-auth"].as_str().unwrap();
    let folder = inputs.join(format!("better-auth-{version}"));
    if folder.join("node_modules").exists() {
        return folder;
    }
    std::fs::create_dir_all(&inputs).unwrap();
    // Beside the name, so that an install that was cut off is not taken for one.
    let making = tempfile::tempdir_in(&inputs).unwrap();
    for name in ["package.json", "package-lock.json"] {
        std::fs::copy(here.join(name), making.path().join(name)).unwrap();
    }
    let mut npm = Command::new("timeout");
    npm.args([
        "300",
        "npm",
        "ci",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
    ])
    .args(["--omit=optional", "--omit=peer"])
    .current_dir(making.path());
    let answer = Answer::of(npm.output().expect("scripts/dev setup installs npm"));
    assert_eq!(answer.code, 0, "{answer:?}");
    // Two runs may make it at the same time; they make the same.
    if std::fs::rename(making.path(), &folder).is_err() {
        assert!(folder.join("node_modules").exists(), "{}", folder.display());
    }
    folder
}

/// What a user of the library holds after signing up.
fn minted() -> Value {
    let script = include_str!("mint.mjs");
    let folder = library();
    let mut node = Command::new("timeout");
    // Given on the command line, so that the library is looked for in the working directory.
    node.args(["60", "node", "--input-type=module", "--eval", script])
        .env("BETTER_AUTH_SECRET", SECRET)
        .env("BETTER_AUTH_TELEMETRY", "0")
        .current_dir(&folder);
    let answer = Answer::of(node.output().unwrap()).success();
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A sidecar that knows the keys `jwks`, in a file that lasts as long as it.
fn start(jwks: &Value) -> (Sidecar, u16, tempfile::NamedTempFile) {
    let port = free_port();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), jwks.to_string()).unwrap();
    let (listen, keys) = (format!("127.0.0.1:{port}"), file.path().to_str().unwrap());
    let arguments = ["--listen", &listen, "--jwks", keys, "--auth-rate", "1000"];
    let sidecar = Sidecar::start_with(&arguments, &[("BETTER_AUTH_SECRET", SECRET)]);
    (sidecar, port, file)
}

fn ask(port: u16, token: &str) -> Response {
    let bearer = format!("Bearer {token}");
    ask_tcp(port, "GET", "/mounts", &[("authorization", &bearer)], "")
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

#[test]
fn what_the_library_mints_is_taken_and_what_looks_like_it_is_not() {
    let minted = minted();
    // One file with the keys of all three, as after changing the kind of keys.
    let keys = ["eddsa", "rs256", "expired"].map(|kind| minted[kind]["jwks"]["keys"][0].clone());
    let (sidecar, port, _keys) = start(&json!({ "keys": keys }));

    for kind in ["eddsa", "rs256"] {
        let token = text(&minted[kind]["token"]);
        ask(port, token).success();
        // State is changed with it too, and the log names the user.
        let bearer = format!("Bearer {token}");
        ask_tcp(
            port,
            "POST",
            "/mounts/unmount",
            &[("authorization", &bearer)],
            r#"{"name":"none"}"#,
        )
        .refused(404, "not_found");
        let user = format!("session:{}", text(&minted[kind]["user"]));
        assert!(sidecar.log().contains(&user), "{user}");
    }
    // The session that the library signs with the secret.
    ask(port, text(&minted["session_data"])).success();

    let good = text(&minted["eddsa"]["token"]);
    let parts: Vec<&str> = good.split('.').collect();
    let rs256 = text(&minted["rs256"]["token"]);
    let public = text(&minted["eddsa"]["jwks"]["keys"][0]["x"]);
    let modulus = text(&minted["rs256"]["jwks"]["keys"][0]["n"]);
    let [unsigned, by_public, by_modulus, by_jwk] = forge(
        parts[1],
        [
            UNSIGNED,
            public,
            modulus,
            &minted["rs256"]["jwks"]["keys"][0].to_string(),
        ],
    );
    let mut other_signature = parts[2].to_owned();
    other_signature.replace_range(
        ..1,
        if other_signature.starts_with('A') {
            "B"
        } else {
            "A"
        },
    );
    for (what, token) in [
        ("expired", text(&minted["expired"]["token"]).to_owned()),
        ("a link of a mail", text(&minted["mail"]).to_owned()),
        (
            "the library's own token, which only it can look up",
            text(&minted["session_token"]).to_owned(),
        ),
        ("not signed", unsigned),
        ("signed with the public key as the secret", by_public),
        ("signed with the modulus as the secret", by_modulus),
        ("signed with the whole public key as the secret", by_jwk),
        (
            "another signature",
            format!("{}.{}.{other_signature}", parts[0], parts[1]),
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("another's claims", {
            let other: Vec<&str> = rs256.split('.').collect();
            format!("{}.{}.{}", parts[0], other[1], parts[2])
        }),
        ("another's signature", {
            let other: Vec<&str> = rs256.split('.').collect();
            format!("{}.{}.{}", parts[0], parts[1], other[2])
        }),
    ] {
        let answer = ask(port, &token);
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        answer.refused(401, "unauthorized");
    }

    // Keys that were taken back: nothing signed with them is good any more.
    drop(sidecar);
    let (_sidecar, port, _keys) = start(&minted["rs256"]["jwks"]);
    ask(port, text(&minted["rs256"]["token"])).success();
    ask(port, good).refused(401, "unauthorized");
}

/// Tokens with the claims of a good one that a forger can make: without a signature, and signed with HS256 and what is
/// public.
fn forge(claims: &str, [header, secrets @ ..]: [&str; 4]) -> [String; 4] {
    let script = "const { createHmac } = require('node:crypto');
        const b = (text) => Buffer.from(text).toString('base64url');
        const [claims, none, ...secrets] = process.argv.slice(1);
        const made = [`${b(none)}.${claims}.`];
        for (const secret of secrets) {
            const head = `${b(JSON.stringify({ alg: 'HS256', typ: 'JWT' }))}.${claims}`;
            made.push(`${head}.${createHmac('sha256', secret).update(head).digest('base64url')}`);
        }
        console.log(JSON.stringify(made));";
    let mut node = Command::new("node");
    node.args(["--eval", script, "--", claims, header])
        .args(secrets);
    let answer = Answer::of(node.output().unwrap()).success();
    serde_json::from_str(&answer.stdout).unwrap()
}
