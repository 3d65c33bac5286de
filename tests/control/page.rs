//! The page of the sidecar in a browser.

use serde_json::json;

use crate::access::free_port;
use crate::browser::Browser;
use crate::previews::{get, id, node_project, ready, sidecar, stop_all};
use crate::support::until;

#[test]
fn the_page_asks_for_a_token_and_then_shows_an_app_and_stops_it() {
    let mut sidecar = sidecar();
    node_project(&sidecar, "web");
    let preview = ready(&sidecar, &json!({"mount": "project", "path": "web"}));
    let made = sidecar.run_json(&["control", "token", "create", "--json"]);
    let token = made["token"].as_str().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    sidecar.sidecar.stop();
    sidecar.add_arguments(&["--listen", &listen]);
    sidecar.start_again();

    let mut browser = Browser::start();
    browser.open(&format!("http://{listen}/"));
    let is_hidden = |what: &str| format!("document.getElementById('{what}')?.hidden");
    until("it asks", || browser.value(&is_hidden("enter")) == false);
    assert_eq!(browser.value(&is_hidden("inside")), true);
    let enter = "document.getElementById('enter').requestSubmit()";
    browser.value(&format!(
        "document.getElementById('token').value = '{token}'; {enter}"
    ));
    let rows = "document.getElementById('previews').innerText";
    let shows = |browser: &mut Browser, words: &[&str]| {
        until(&format!("the page shows {words:?}"), || {
            let text = browser.value(rows);
            let text = text.as_str().unwrap_or_default();
            words.iter().all(|word| text.contains(word))
        });
    };
    let url = preview["url"].as_str().unwrap();
    shows(
        &mut browser,
        &["project:web", "ready", "npm run start", url],
    );
    let button = "[...document.querySelectorAll('#previews button')].find((one) => one.innerText === 'Stop')";
    browser.value(&format!("{button}.click()"));
    shows(&mut browser, &["stopped; it was ended"]);
    assert_eq!(get(&sidecar, id(&preview))["state"], "stopped");
    assert_eq!(browser.value(button), serde_json::Value::Null);
    drop(browser);
    stop_all(&sidecar);
}
