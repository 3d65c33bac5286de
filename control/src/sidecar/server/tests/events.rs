//! Events as they are sent.

use super::*;

#[tokio::test]
async fn events_are_followed_and_taken_up_again() {
    let running = start(false).await;
    let mut now = Stream::open(&running, "/events", &[]).await;
    now.head().await;
    let mut only = Stream::open(&running, "/events?mount=other&after=0", &[]).await;
    running
        .ask("POST", "/mounts", r#"{"source":"s3://bucket"}"#)
        .await;
    let first = now.events(2).await;
    assert_eq!(
        (&first[0]["kind"], &first[1]["kind"]),
        (&json!("mount.mounting"), &json!("mount.mounted"))
    );
    assert!(
        now.text.contains("content-type: text/event-stream"),
        "{}",
        now.text
    );
    assert!(
        now.text.contains(&format!("id: {}", first[0]["id"]))
            && now.text.contains("event: mount.mounting")
    );
    drop(now);
    let last = first[0]["id"].to_string();
    let mut again = Stream::open(&running, "/events?after=0", &[("last-event-id", &last)]).await;
    assert_eq!(again.events(1).await[0], first[1]);
    let mut all = Stream::open(&running, "/events?after=0", &[]).await;
    assert_eq!(all.events(1).await[0]["kind"], "sidecar.started");
    running
        .ask("POST", "/mounts", r#"{"source":"s3://other"}"#)
        .await;
    let about_other = only.events(2).await;
    assert!(
        about_other.iter().all(|event| event["mount"] == "other"),
        "{about_other:?}"
    );
}

#[tokio::test]
async fn only_so_many_listen_at_the_same_time() {
    let running = start(false).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_MAX {
        let mut stream = Stream::open(&running, "/events?after=0", &[]).await;
        stream.events(1).await;
        open.push(stream);
    }
    running
        .ask("GET", "/events", "")
        .await
        .refused(409, "limit_reached");
    open.pop();
    let mut again = None;
    for _ in 0..1000 {
        let mut stream = Stream::open(&running, "/events?after=0", &[]).await;
        let mut part = [0; 64];
        let length = stream.stream.read(&mut part).await.unwrap();
        if String::from_utf8_lossy(&part[..length]).starts_with("HTTP/1.1 200") {
            again = Some(stream);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        again.is_some(),
        "a place that was given back is taken again"
    );
}
