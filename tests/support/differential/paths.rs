//! Paths: few names, so that calls meet, and every corner of path resolution now and then.

use crate::support::calls::{At, Base, SLOTS};
use rand::Rng;
use rand::rngs::SmallRng;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// `PATH_MAX` counts the zero at the end.
const LONGEST_PATH: usize = 4095;

/// Deeper folders get nothing new.
const DEEPEST: usize = 6;

/// Makes paths.
#[derive(Default)]
pub(crate) struct Paths {
    /// What is there, as far as is known: paths below the root.
    there: Vec<String>,
    folders: Vec<String>,
}

/// What a path is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Something that is there.
    Use,
    /// A folder that is there.
    Folder,
    /// Something new.
    Make,
}

fn one(random: &mut SmallRng, of: &[String]) -> Option<String> {
    let len = of.len();
    (len > 0).then(|| of[random.random_range(0..len)].clone())
}

fn name(random: &mut SmallRng) -> &'static str {
    NAMES[random.random_range(0..NAMES.len())]
}

impl Paths {
    /// Takes note of what is there; folders end with a slash.
    pub(crate) fn learn(&mut self, there: Vec<String>) {
        let folder = |path: &String| path.strip_suffix('/').map(str::to_owned);
        self.folders = there.iter().filter_map(folder).collect();
        self.there = there
            .iter()
            .map(|path| path.trim_end_matches('/').to_owned())
            .collect();
    }

    /// Any path from anywhere.
    pub(crate) fn any(&self, random: &mut SmallRng, purpose: For) -> At {
        let base = match random.random_range(0..20) {
            0..=13 => Base::Root,
            14..=17 => Base::Cwd,
            _ => Base::Slot(random.random_range(0..SLOTS)),
        };
        let path = self.relative(random, base, purpose);
        At { base, path }
    }

    /// A path for a call that takes no directory descriptor.
    pub(crate) fn without_slot(&self, random: &mut SmallRng, purpose: For) -> At {
        let base = match random.random_range(0..5) {
            0 => Base::Cwd,
            _ => Base::Root,
        };
        let path = self.relative(random, base, purpose);
        At { base, path }
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self, random: &mut SmallRng) -> String {
        match random.random_range(0..12) {
            0 => String::new(),
            1 => "x".repeat(LONGEST_PATH),
            2 => "x".repeat(LONGEST_PATH + 1),
            3..=5 => format!("/{}", self.relative(random, Base::Root, For::Use)),
            6 => format!("../{}", self.plain(random)),
            _ => self.plain(random),
        }
    }

    /// A path below the root, where it is likely to be of use.
    fn likely(&self, random: &mut SmallRng, purpose: For) -> Option<String> {
        match purpose {
            For::Use => one(random, &self.there),
            For::Folder => one(random, &self.folders),
            For::Make => {
                let folder = one(random, &self.folders)?;
                let shallow = folder.matches('/').count() < DEEPEST;
                shallow.then(|| match folder.is_empty() {
                    true => name(random).to_owned(),
                    false => format!("{folder}/{}", name(random)),
                })
            }
        }
    }

    fn plain(&self, random: &mut SmallRng) -> String {
        let depth = match random.random_range(0..20) {
            0..=9 => 1,
            10..=16 => 2,
            _ => 3,
        };
        let names: Vec<&str> = (0..depth).map(|_| name(random)).collect();
        names.join("/")
    }

    fn relative(&self, random: &mut SmallRng, base: Base, purpose: For) -> String {
        let likely = match base == Base::Root && random.random_range(0..10) < 8 {
            true => self.likely(random, purpose),
            false => None,
        };
        let plain = likely.unwrap_or_else(|| self.plain(random));
        match random.random_range(0..160) {
            0..=2 => format!("{plain}/"),
            3 => format!("{plain}/."),
            4 | 5 => format!("{plain}/.."),
            6 | 7 => format!("../{plain}"),
            8 => format!("./{plain}"),
            9 => format!("{plain}//{}", name(random)),
            10 => format!("{plain}/../{}", name(random)),
            11 => ".".to_owned(),
            12 => "..".to_owned(),
            13 => String::new(),
            14 => "n".repeat(255),
            15 => "n".repeat(256),
            16 => format!("{plain}/{}", "n".repeat(256)),
            17 => format!("{}{}", "./".repeat(LONGEST_PATH / 2), name(random)),
            18 => format!("{}{}", "./".repeat(LONGEST_PATH / 2 - 1), name(random)),
            19 => format!("{plain}//"),
            _ => plain,
        }
    }
}
