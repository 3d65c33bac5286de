//! The pieces of work of `bench snapshots` as the harness starts them: each in a process of its own, told by arguments.

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    /// Runs `bench work ARGUMENTS`; what it printed, or what it complained of.
    fn work(arguments: &[&str]) -> Result<serde_json::Value, String> {
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .arg("work")
            .args(arguments)
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }

    #[test]
    fn normal_writes_follow_each_other_and_a_writer_says_how_long_it_waited() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, writer) = (folder.path().join("desk"), folder.path().join("writer"));
        for (op, round) in [
            ("prepare", "0"),
            ("create", "0"),
            ("overwrite", "0"),
            ("git", "0"),
            ("rename", "0"),
            ("rename", "1"),
            ("overwrite", "1"),
        ] {
            let said = work(&["write", op, text(&desk), "300", round]).unwrap();
            assert_eq!(said["done"], 300, "{op}");
        }
        let said = work(&["writer", text(&writer), "0.05"]).unwrap();
        let figure = |name: &str| said["figures"][name].as_f64().unwrap();
        assert!(figure("p99") <= figure("worst"));
    }

    #[test]
    fn a_tree_that_is_not_as_its_model_says_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (model, tree) = (folder.path().join("model"), folder.path().join("tree"));
        // As the harness writes it: what a tree holds follows from this alone.
        let files: Vec<_> = (0..40)
            .map(
                |n| serde_json::json!({ "path": format!("a/f-{n}"), "number": n, "generation": 0 }),
            )
            .collect();
        let text_of_model = serde_json::json!({
            "seed": 1, "turns": 0, "next_number": 40, "files": files, "folders": ["a"],
        });
        std::fs::write(&model, text_of_model.to_string()).unwrap();
        let (model, tree) = (text(&model), text(&tree));
        work(&["make-tree", model, tree]).unwrap();
        assert_eq!(work(&["check-tree", model, tree, "1"]).unwrap()["done"], 40);
        work(&["turns", model, tree, "1"]).unwrap();
        work(&["change-tree", model, tree, "20"]).unwrap();
        work(&["check-tree", model, tree, "1"]).unwrap();
        std::fs::write(format!("{tree}/a/surplus"), "").unwrap();
        let why = work(&["check-tree", model, tree, "1"]).unwrap_err();
        assert!(why.contains("a/surplus"), "{why}");
    }
}
