//! The direction of dependencies. Reads the manifests through `cargo metadata` and fails when one runs against the
//! layout: binary -> control, fs -> meta, blockstore. Some libraries belong to one crate, and fuser to one module.

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use serde_json::Value;

    /// Our crates, and which of ours each may name. A crate that is not here has to be put here first.
    const OURS: &[(&str, &[&str])] = &[
        ("weldrfs", &["weldrfs-control", "weldrfs-fs"]),
        ("weldrfs-fs", &["weldrfs-meta", "weldrfs-blockstore"]),
        ("weldrfs-meta", &[]),
        ("weldrfs-blockstore", &[]),
        ("weldrfs-control", &[]),
        // Nobody may name the benches themselves.
        (
            "weldrfs-benches",
            &["weldrfs-fs", "weldrfs-meta", "weldrfs-blockstore"],
        ),
    ];

    /// Libraries, by the beginning of their name, and the only crates that may name them.
    const OWNERS: &[(&str, &[&str])] = &[
        ("fuser", &["weldrfs-fs", "weldrfs-benches"]),
        ("rusqlite", &["weldrfs-meta", "weldrfs-control"]),
        ("libsqlite3-sys", &["weldrfs-meta", "weldrfs-control"]),
        ("axum", &["weldrfs-control"]),
        ("oci-spec", &["weldrfs-control"]),
        ("aws-", &["weldrfs-blockstore"]),
    ];

    /// One manifest: a package and what it names, for building and for tests alike.
    struct Package {
        name: String,
        needs: Vec<String>,
    }

    fn package(name: &str, needs: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
        }
    }

    /// Every dependency that runs against the layout, in words.
    fn violations(packages: &[Package]) -> Vec<String> {
        let mut found = Vec::new();
        for Package { name, needs } in packages {
            let Some((_, allowed)) = OURS.iter().find(|(ours, _)| ours == name) else {
                found.push(format!("{name} has no place in the layout yet"));
                continue;
            };
            for need in needs {
                let is_ours = need.starts_with("weldrfs");
                if is_ours && !allowed.contains(&need.as_str()) {
                    found.push(format!("{name} must not name {need}"));
                }
                for (library, owners) in OWNERS {
                    if need.starts_with(library) && !owners.contains(&name.as_str()) {
                        found.push(format!("{name} must not name {need}: {owners:?} may"));
                    }
                }
            }
        }
        found
    }

    /// The packages that `cargo metadata` tells of.
    fn packages_of(metadata: &Value) -> Vec<Package> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        // The real name, also of a dependency that the manifest renames.
        let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
        list(&metadata["packages"])
            .iter()
            .map(|package| Package {
                name: name(package),
                needs: list(&package["dependencies"]).iter().map(name).collect(),
            })
            .collect()
    }

    fn root() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
    }

    fn metadata() -> Value {
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--no-deps",
                "--offline",
                "--format-version",
                "1",
            ])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("cargo metadata says JSON")
    }

    #[test]
    fn no_dependency_runs_against_the_layout() {
        let packages = packages_of(&metadata());
        for (name, _) in OURS {
            assert!(
                packages.iter().any(|package| package.name == *name),
                "{name} is not in the workspace"
            );
        }
        assert!(
            packages.iter().all(|package| !package.needs.is_empty()),
            "the dependencies were not read"
        );
        assert_eq!(violations(&packages), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_dependency_is_found() {
        for (name, need) in [
            ("weldrfs-meta", "weldrfs-blockstore"),
            ("weldrfs-blockstore", "weldrfs-meta"),
            ("weldrfs-meta", "weldrfs-fs"),
            ("weldrfs-fs", "weldrfs"),
            ("weldrfs-fs", "weldrfs-control"),
            ("weldrfs-control", "weldrfs-fs"),
            ("weldrfs-control", "fuser"),
            ("weldrfs", "weldrfs-meta"),
            ("weldrfs", "fuser"),
            ("weldrfs", "rusqlite"),
            ("weldrfs-fs", "rusqlite"),
            ("weldrfs-blockstore", "libsqlite3-sys"),
            ("weldrfs-meta", "aws-sdk-s3"),
            ("weldrfs-fs", "aws-config"),
            ("weldrfs", "axum"),
            ("weldrfs-blockstore", "axum-core"),
            ("weldrfs", "weldrfs-benches"),
            ("weldrfs-fs", "weldrfs-benches"),
            ("weldrfs-benches", "weldrfs"),
            ("weldrfs-benches", "weldrfs-control"),
            ("weldrfs-benches", "rusqlite"),
            ("weldrfs-benches", "aws-sdk-s3"),
            ("weldrfs-more", "libc"),
        ] {
            let found = violations(&[
                package("weldrfs-fs", &["weldrfs-meta", "fuser"]),
                package(name, &["libc", need]),
            ]);
            assert_eq!(found.len(), 1, "{name} names {need}: {found:?}");
            assert!(found[0].contains(name), "{found:?}");
        }
    }

    #[test]
    fn the_layout_itself_is_allowed() {
        let allowed = [
            package("weldrfs", &["weldrfs-control", "weldrfs-fs", "clap"]),
            package(
                "weldrfs-fs",
                &["weldrfs-meta", "weldrfs-blockstore", "fuser"],
            ),
            package("weldrfs-meta", &["rusqlite"]),
            package("weldrfs-blockstore", &["aws-sdk-s3", "tokio"]),
            package("weldrfs-control", &["axum", "rusqlite"]),
            package("weldrfs-benches", &["weldrfs-fs", "weldrfs-meta", "fuser"]),
        ];
        assert_eq!(violations(&allowed), Vec::<String>::new());
    }

    #[test]
    fn dependencies_are_read_by_their_real_names() {
        let told = serde_json::json!({"packages": [{
            "name": "weldrfs-meta",
            "dependencies": [{"name": "fuser", "rename": "innocent", "kind": "dev"}],
        }]});
        assert_eq!(violations(&packages_of(&told)).len(), 1);
    }

    /// The lines of Rust files below `folder` that use the crate `library`, as `file: line`.
    fn uses(folder: &Path, library: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                found.extend(uses(&path, library));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("it is text");
                let lines = text
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                let naming = lines.filter(|line| line.contains(&format!("{library}::")));
                found.extend(naming.map(|line| format!("{}: {line}", path.display())));
            }
        }
        found
    }

    #[test]
    fn the_harness_drives_programs_and_knows_no_crate_of_ours() {
        for library in ["weldrfs_fs", "weldrfs_meta", "weldrfs_blockstore"] {
            assert_eq!(uses(&root().join("benches/src"), library), [""; 0]);
            let criterion = uses(&root().join("benches/criterion"), library);
            assert!(!criterion.is_empty(), "no bench uses {library}");
        }
    }

    #[test]
    fn only_one_module_of_each_crate_uses_what_the_rest_must_not_know() {
        for (folder, library, home) in [
            ("fs/src", "fuser", "fs/src/adapter/"),
            ("src", "weldrfs_fs", "src/mounting"),
            ("benches", "fuser", "benches/floor/"),
            ("control/src", "rusqlite", "control/src/sidecar/store/"),
        ] {
            let (inside, outside): (Vec<_>, Vec<_>) = uses(&root().join(folder), library)
                .into_iter()
                .partition(|line| line.contains(home));
            assert!(!inside.is_empty(), "{home} does not use {library}");
            assert_eq!(outside, Vec::<String>::new());
        }
    }
}
