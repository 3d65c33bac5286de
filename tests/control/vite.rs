//! A real Vite application: installed on a mount, started by detection, and told of edits from inside and outside through the
//! kernel's watches and the forwarded WebSocket.

use std::io::{BufRead, BufReader, Read, Write};

use serde_json::json;

use crate::exec::{exec, sidecar_with, unmount};
use crate::previews::{connect, fetch, first_port, id, port, ready, stop, write};
use crate::support::until;

/// Reads from a connection until `part` has come.
fn read_until(stream: &mut impl Read, part: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !text.contains(part) {
        let length = stream.read(&mut bytes).unwrap();
        assert!(length > 0, "it ended without {part}: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
    }
    text
}

#[test]
fn a_vite_application_reloads_after_edits_from_both_sides() {
    let first = first_port();
    let sidecar = sidecar_with(&["--preview-ports", &format!("{first}-{}", first + 19)]);
    write(
        &sidecar,
        "package.json",
        r#"{"name":"v","private":true,"type":"module","scripts":{"dev":"vite"},"devDependencies":{"vite":"5.4.21"}}"#,
    );
    write(
        &sidecar,
        "index.html",
        r#"<!doctype html><body><script type="module" src="/main.js"></script></body>"#,
    );
    write(&sidecar, "main.js", "console.log('one')\n");
    let install = json!({
        "mount": "project", "network": "host",
        "command": ["npm", "install", "--no-audit", "--no-fund", "--no-update-notifier"],
    });
    let ran = exec(&sidecar, &install);
    assert_eq!(
        ran.exit["status"], 0,
        "the registry has to be reachable: {ran:?}"
    );
    let preview = ready(&sidecar, &json!({"mount": "project"}));
    assert_eq!(
        preview["command"], "npm run dev -- --port 3000",
        "{preview}"
    );
    let port = port(&preview);
    assert!(fetch(port, "/").contains("/@vite/client"));
    assert!(fetch(port, "/main.js").contains("one"));
    let client = fetch(port, "/@vite/client");
    let token = client
        .split_once("wsToken = \"")
        .and_then(|(_, rest)| Some(rest.split_once('"')?.0))
        .unwrap_or_default();
    let mut socket = connect(port);
    let ask = format!(
        "GET /?token={token} HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: http://localhost:{port}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: vite-hmr\r\n\r\n"
    );
    socket.write_all(ask.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, &socket)
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("101"), "{line}");
    read_until(&mut socket, "connected");
    // From outside of the sandbox, as an agent edits.
    write(&sidecar, "main.js", "console.log('two')\n");
    read_until(&mut socket, "full-reload");
    until("the page has the edit", || {
        fetch(port, "/main.js").contains("two")
    });
    // And from inside of another one.
    let edit = json!({"mount": "project", "command": "echo \"console.log('three')\" >main.js"});
    assert_eq!(exec(&sidecar, &edit).exit["status"], 0);
    read_until(&mut socket, "full-reload");
    until("the page has it", || {
        fetch(port, "/main.js").contains("three")
    });
    assert!(!id(&preview).is_empty());
    stop(&sidecar, &preview);
    unmount(&sidecar);
}
