//! What the check finds of a damaged trash, by name.

use rusqlite::Connection;

use super::*;
use crate::check::check;
use crate::sqlite::open;

/// The invariants that are violated once `sql` has changed the tables of a namespace with a removed tree.
fn found(sql: &str) -> Vec<&'static str> {
    let tmp = tempfile::tempdir().unwrap();
    let ns = quiet(tmp.path(), true);
    let d = make_dir(&ns, ROOT_INO, "d");
    make(&ns, d, "f");
    make_dir(&ns, ROOT_INO, "live");
    publish(&ns);
    remove_tree(&ns, ROOT_INO, b"d", SECOND);
    ns.close().unwrap();
    let c = Connection::open(open::path(tmp.path())).unwrap();
    c.execute_batch(sql).unwrap();
    let mut names: Vec<_> = check(&c)
        .unwrap()
        .findings
        .iter()
        .map(|f| f.invariant)
        .collect();
    names.dedup();
    names
}

#[test]
fn damage_of_the_trash_is_found_by_name() {
    // The directory d has number 2, the file in it 3, the other directory 4.
    assert_eq!(found(""), [""; 0]);
    assert_eq!(
        found("DELETE FROM trash WHERE ino = 3"),
        ["trash-row", "orphan-row"]
    );
    assert_eq!(found("INSERT INTO orphan VALUES (3)"), ["orphan-row"]);
    assert_eq!(
        found("UPDATE inode SET parent = 1 WHERE ino = 3"),
        ["trash-row"]
    );
    assert_eq!(
        found("UPDATE trash SET parent = 99 WHERE ino = 3"),
        ["trash-parent", "trash-row"]
    );
    assert_eq!(
        found("INSERT INTO trash VALUES (9, 4, 1, X'78', 0, 0)"),
        ["trash-row"]
    );
    assert_eq!(
        found("INSERT INTO trash VALUES (9, 77, 1, X'78', 0, 0)"),
        ["trash-row"]
    );
    assert_eq!(
        found("INSERT INTO trash VALUES (9, 2, 4, X'78', 0, 0)"),
        ["trash-row"]
    );
    assert!(found("DELETE FROM trash WHERE ino = 2").contains(&"trash-parent"));
}
