//! Where the files of a made tree lie, how long they are and what is in them. Pure.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

/// Files of one package: at least and at most.
const PACKAGE_FILES: (u64, u64) = (4, 36);
/// Folders within a package; none is the package's own.
const INNER: [&str; 5] = ["", "dist", "dist/esm", "lib", "lib/internal"];
const ENDINGS: [&str; 5] = ["js", "d.ts", "mjs", "json", "js.map"];
/// One package in so many has a scope, and one in so many brings packages of its own.
const SCOPED: u64 = 5;
const NESTED: u64 = 8;
const SCOPES: u64 = 24;
/// Least and most bytes of a file as powers of two: most are small.
const BYTES_BITS: (f64, f64) = (6.0, 13.0);

/// Paths of `files` files: packages with some folders each, as in `node_modules`.
pub(super) fn paths(seed: u64, files: u64) -> Vec<String> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut paths = Vec::new();
    let mut package = 0_u64;
    let mut outer = String::new();
    while (paths.len() as u64) < files {
        let is_nested = !outer.is_empty() && rng.random_range(0..NESTED) == 0;
        let is_scoped = rng.random_range(0..SCOPED) == 0;
        let root = match (is_nested, is_scoped) {
            (true, _) => format!("{outer}/node_modules/inner-{package}"),
            (_, true) => format!("@scope-{}/part-{package}", rng.random_range(0..SCOPES)),
            _ => format!("package-{package}"),
        };
        let left = files - paths.len() as u64;
        let most = rng.random_range(PACKAGE_FILES.0..=PACKAGE_FILES.1);
        for n in 0..most.min(left) {
            let ending = ENDINGS[rng.random_range(0..ENDINGS.len())];
            paths.push(match (n, INNER[rng.random_range(0..INNER.len())]) {
                (0, _) => format!("{root}/package.json"),
                (_, "") => format!("{root}/file-{n}.{ending}"),
                (_, inner) => format!("{root}/{inner}/file-{n}.{ending}"),
            });
        }
        if !is_nested {
            outer = root;
        }
        package += 1;
    }
    paths
}

fn mixed(number: u64, generation: u64) -> SmallRng {
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.rotate_left(32);
    SmallRng::seed_from_u64(seed)
}

/// The length of a file's content, bytes.
pub(super) fn bytes(number: u64, generation: u64) -> usize {
    let bits = mixed(number, generation).random_range(BYTES_BITS.0..BYTES_BITS.1);
    bits.exp2() as usize
}

/// Makes the content of a file: it begins with its number and generation.
pub(crate) fn fill(content: &mut Vec<u8>, number: u64, generation: u64) {
    content.clear();
    content.resize(bytes(number, generation), 0);
    let mut rng = mixed(number, generation);
    rng.fill_bytes(content);
    let name = [number.to_le_bytes(), generation.to_le_bytes()].concat();
    content[..name.len()].copy_from_slice(&name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_makes_one_tree_with_as_many_files_as_told() {
        for files in [1, 50, 3_000] {
            let all = paths(7, files);
            let once: BTreeSet<&String> = all.iter().collect();
            assert_eq!((all.len() as u64, once.len() as u64), (files, files));
            assert_eq!(all, paths(7, files));
        }
        assert_ne!(paths(7, 50), paths(8, 50));
    }

    #[test]
    fn no_file_is_where_a_folder_is() {
        let all = paths(7, 3_000);
        let files: BTreeSet<&str> = all.iter().map(String::as_str).collect();
        for path in &all {
            let mut above = path.as_str();
            while let Some((folder, _)) = above.rsplit_once('/') {
                assert!(!files.contains(folder), "{folder} is both");
                above = folder;
            }
        }
    }

    #[test]
    fn files_are_small_and_every_generation_is_another() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let mut all = 0;
        for number in 0..1_000 {
            fill(&mut one, number, 0);
            fill(&mut other, number, 1);
            assert_ne!(one, other);
            assert!((64..8192).contains(&one.len()), "{}", one.len());
            all += one.len();
        }
        assert!((1_000..3_000).contains(&(all / 1_000)), "{all}");
    }
}
