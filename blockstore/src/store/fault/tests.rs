use super::super::MemoryStore;
use super::*;

fn stores() -> (Arc<MemoryStore>, FaultStore) {
    let memory = Arc::new(MemoryStore::new());
    let faults = FaultStore::new(Arc::clone(&memory) as _, 42);
    (memory, faults)
}

async fn put(store: &FaultStore, key: &str) -> Result<Version, StoreError> {
    let body = Bytes::from_static(b"0123456789");
    store.put(key, body, PutCondition::IfAbsent).await
}

#[tokio::test]
async fn an_error_before_has_no_effect_and_one_after_has() {
    let (memory, store) = stores();
    let before = store.add(FaultRule::on(
        Verb::Put,
        Fault::ErrorBefore(FaultKind::Unavailable),
    ));
    assert!(put(&store, "a").await.unwrap_err().is_ambiguous());
    assert!(memory.keys().is_empty());
    store.remove(before);
    let after = Fault::ErrorAfter(FaultKind::Timeout);
    store.add(FaultRule::on(Verb::Put, after));
    assert!(matches!(
        put(&store, "a").await,
        Err(StoreError::Timeout { .. })
    ));
    assert_eq!(memory.keys(), ["a"]);
    assert_eq!(store.injected()[&after], 1);
    assert_eq!(store.counts().put.errors, 2);
    store.delete(&["a".into()]).await.unwrap();
    assert!(memory.keys().is_empty());
}

#[tokio::test]
async fn rules_choose_by_key_and_count() {
    let (_, store) = stores();
    let fault = Fault::ErrorBefore(FaultKind::Denied);
    store.add(FaultRule::always(fault).prefix("packs/").skip(1).times(2));
    let mut outcomes = Vec::new();
    for key in [
        "meta/1", "packs/1", "packs/2", "meta/2", "packs/3", "packs/4",
    ] {
        outcomes.push(put(&store, key).await.is_ok());
    }
    assert_eq!(outcomes, [true, true, false, true, false, true]);
    let log = store.take_log();
    assert_eq!(log.len(), 6);
    assert_eq!(
        log[2],
        RequestRecord {
            verb: Verb::Put,
            key: "packs/2".into(),
            ok: false
        }
    );
    assert!(store.take_log().is_empty());
    store.add(FaultRule::on(Verb::Delete, fault).prefix("packs/"));
    let keys = ["meta/1".to_owned(), "packs/1".to_owned()];
    assert!(store.delete(&keys).await.is_err());
    assert!(store.delete(&keys[..1]).await.is_ok());
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (_, store) = stores();
        store.add(FaultRule::always(Fault::ErrorBefore(FaultKind::Unavailable)).chance(0.5));
        let mut run = Vec::new();
        for i in 0..64 {
            run.push(put(&store, &format!("k{i}")).await.is_ok());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].contains(&true) && runs[0].contains(&false));
}

#[tokio::test]
async fn bodies_come_short_or_damaged() {
    let (_, store) = stores();
    put(&store, "a").await.unwrap();
    let short = store.add(FaultRule::on(Verb::Get, Fault::ShortBody));
    let body = store.get("a", None).await.unwrap().bytes;
    assert!(body.len() < 10 && b"0123456789".starts_with(&body));
    store.remove(short);
    store.add(FaultRule::on(Verb::Get, Fault::DamagedBody));
    let body = store.get("a", None).await.unwrap().bytes;
    let flipped: u32 = body
        .iter()
        .zip(b"0123456789")
        .map(|(a, b)| (a ^ b).count_ones())
        .sum();
    assert_eq!((body.len(), flipped), (10, 1));
    store.heal();
    assert_eq!(
        &store.get("a", None).await.unwrap().bytes[..],
        b"0123456789"
    );
}

#[tokio::test]
async fn conditions_can_be_ignored() {
    let (_, store) = stores();
    put(&store, "a").await.unwrap();
    assert!(put(&store, "a").await.is_err());
    store.add(FaultRule::on(Verb::Put, Fault::IgnoreCondition));
    assert!(put(&store, "a").await.is_ok());
}

#[tokio::test]
async fn outages_refuse_or_hang_until_they_end() {
    let (memory, store) = stores();
    store.set_outage(Outage::Refused);
    assert!(put(&store, "a").await.is_err());
    store.set_outage(Outage::Hanging);
    let store = Arc::new(store);
    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, "a").await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    store.set_outage(Outage::None);
    assert!(waiting.await.unwrap().is_err());
    assert!(memory.keys().is_empty());
    put(&store, "a").await.unwrap();
}

#[tokio::test]
async fn a_hanging_request_is_ended_by_its_caller() {
    let (memory, store) = stores();
    store.add(FaultRule::on(Verb::Put, Fault::Hang));
    store.add(FaultRule::on(
        Verb::Head,
        Fault::Delay(Duration::from_millis(1)),
    ));
    assert!(
        timeout(Duration::from_millis(20), put(&store, "a"))
            .await
            .is_err()
    );
    assert!(memory.keys().is_empty());
    assert!(store.head("a").await.unwrap_err().is_not_found());
}
