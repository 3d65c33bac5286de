//! Bearer tokens: a file with one line for each, of which only a hash is kept.
//!
//! `ID HASH CREATED EXPIRES NAME`: 16 hexadecimal digits; SHA-256 of the whole token, hexadecimal; milliseconds since
//! 1970; the same or `-`; the rest of the line, for people. A token is `weldr_ID_SECRET` with 64 hexadecimal digits of
//! randomness, so a hash without salt and stretching tells nothing.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::sidecar::host::Clock;

/// What every token begins with, so that scanners for leaked secrets can find it.
const PREFIX: &str = "weldr_";
/// Largest file that is read.
const FILE_MAX: u64 = 1024 * 1024;
/// Most tokens.
const TOKENS_MAX: usize = 1000;
/// Longest name.
const NAME_MAX: usize = 100;

/// What is known of a token; not the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Names it.
    pub id: String,
    /// For people.
    pub name: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends, milliseconds since 1970; never when absent.
    pub expires_ms: Option<u64>,
}

/// A token that was just made. Shown once.
#[derive(Serialize)]
pub struct NewToken {
    /// The token itself.
    pub token: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub info: TokenInfo,
}

struct Line {
    info: TokenInfo,
    hash: [u8; 32],
}

/// The file, for those who make and revoke tokens.
#[derive(Debug, Clone)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    /// The file at `path`, which may not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes a token. `random` are 40 random bytes.
    ///
    /// # Errors
    /// When the file cannot be written, is full, or `name` does not fit a line.
    pub fn create(
        &self,
        name: &str,
        now_ms: u64,
        expires_ms: Option<u64>,
        random: [u8; 40],
    ) -> io::Result<NewToken> {
        let refused = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        if name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control) {
            return Err(refused(format!(
                "a token's name has 1 to {NAME_MAX} bytes on one line"
            )));
        }
        let id = hex(&random[..8]);
        let token = format!("{PREFIX}{id}_{}", hex(&random[8..]));
        let info = TokenInfo {
            id,
            name: name.trim().to_owned(),
            created_ms: now_ms,
            expires_ms,
        };
        let line = Line {
            hash: hash(&token),
            info: info.clone(),
        };
        self.change(|lines| {
            if lines.len() >= TOKENS_MAX {
                return Err(refused(format!(
                    "there are {TOKENS_MAX} tokens; revoke some"
                )));
            }
            lines.push(line);
            Ok(())
        })?;
        Ok(NewToken { token, info })
    }

    /// The tokens, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn list(&self) -> io::Result<Vec<TokenInfo>> {
        Ok(read(&self.path)?
            .into_iter()
            .map(|line| line.info)
            .collect())
    }

    /// Takes a token away at once; says whether it was there.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn revoke(&self, id: &str) -> io::Result<bool> {
        let before = self.change(|lines| {
            lines.retain(|line| line.info.id != id);
            Ok(())
        })?;
        Ok(before.iter().any(|known| known == id))
    }

    /// Changes the file while nobody else does; returns the ids that were there before.
    fn change(
        &self,
        change: impl FnOnce(&mut Vec<Line>) -> io::Result<()>,
    ) -> io::Result<Vec<String>> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let private = |path: &Path| {
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
        };
        let lock = private(&self.path.with_extension("lock"))?;
        lock.lock()?;
        let mut lines = read(&self.path)?;
        let before = lines.iter().map(|line| line.info.id.clone()).collect();
        change(&mut lines)?;
        let temporary = self.path.with_extension("new");
        drop(std::fs::remove_file(&temporary));
        let mut file = private(&temporary)?;
        file.write_all(write(&lines).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        File::open(folder)?.sync_all()?;
        Ok(before)
    }
}

fn write(lines: &[Line]) -> String {
    let line = |line: &Line| {
        let info = &line.info;
        let expires = info.expires_ms.map_or("-".to_owned(), |ms| ms.to_string());
        format!(
            "{} {} {} {expires} {}\n",
            info.id,
            hex(&line.hash),
            info.created_ms,
            info.name
        )
    };
    lines.iter().map(line).collect()
}

fn read(path: &Path) -> io::Result<Vec<Line>> {
    let text = match std::fs::metadata(path) {
        Ok(found) if found.len() <= FILE_MAX => std::fs::read_to_string(path)?,
        Ok(_) => {
            let text = format!("{} is too large for a file of tokens", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = text.lines().filter(|line| !line.is_empty()).enumerate();
    lines
        .map(|(n, line)| {
            parse(line).ok_or_else(|| {
                let text = format!(
                    "line {} of {} is no token; remove it",
                    n + 1,
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
        })
        .collect()
}

fn parse(line: &str) -> Option<Line> {
    let mut fields = line.splitn(5, ' ');
    let id = fields
        .next()
        .filter(|id| id.len() == 16 && unhex::<8>(id).is_some())?;
    let hash = unhex(fields.next()?)?;
    let created_ms = fields.next()?.parse().ok()?;
    let expires_ms = match fields.next()? {
        "-" => None,
        text => Some(text.parse().ok()?),
    };
    Some(Line {
        info: TokenInfo {
            id: id.to_owned(),
            name: fields.next().unwrap_or_default().to_owned(),
            created_ms,
            expires_ms,
        },
        hash,
    })
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// What a file looked like when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed_ns: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: found.ino(),
            size: found.size(),
            changed_ns: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// The tokens as the server knows them: the file is read again whenever it was changed, so that a token that is revoked
/// ends at once.
pub(super) struct Tokens {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    known: Mutex<(Option<Stamp>, HashMap<String, Line>)>,
}

impl Tokens {
    pub(super) fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            path,
            clock,
            known: Mutex::new((None, HashMap::new())),
        }
    }

    /// Whether there is any token.
    pub(super) fn any(&self) -> bool {
        self.refresh();
        !self.known.lock().1.is_empty()
    }

    /// The name of a token that is known and holds.
    pub(super) fn find(&self, token: &str) -> Option<String> {
        let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
        self.refresh();
        let known = self.known.lock();
        let line = known.1.get(id)?;
        let is_it = bool::from(line.hash.ct_eq(&hash(token)));
        let holds = line
            .info
            .expires_ms
            .is_none_or(|end| self.clock.now_ms() < end);
        (is_it && holds).then(|| format!("token:{id}"))
    }

    fn refresh(&self) {
        let mut known = self.known.lock();
        let stamp = Stamp::of(&self.path);
        if stamp == known.0 {
            return;
        }
        // A file that cannot be read lets nobody in.
        let lines = read(&self.path).unwrap_or_else(|error| {
            tracing::error!(%error, "the tokens cannot be read; none holds");
            Vec::new()
        });
        let by_id = lines.into_iter().map(|line| (line.info.id.clone(), line));
        *known = (stamp, by_id.collect());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sidecar::host::WallClock;

    struct At(u64);

    impl Clock for At {
        fn now_ms(&self) -> u64 {
            self.0
        }
    }

    fn random(seed: u8) -> [u8; 40] {
        std::array::from_fn(|n| seed.wrapping_mul(41).wrapping_add(n as u8))
    }

    #[test]
    fn a_token_holds_until_it_is_revoked_and_is_nowhere_to_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control/tokens");
        let file = TokenFile::new(&path);
        assert_eq!(file.list().unwrap(), []);
        let tokens = Tokens::new(path.clone(), Arc::new(WallClock));
        assert!(!tokens.any());
        let one = file.create("the page", 5, None, random(1)).unwrap();
        let two = file.create("two", 6, None, random(2)).unwrap();
        assert!(tokens.any());
        assert_eq!(
            tokens.find(&one.token),
            Some(format!("token:{}", one.info.id))
        );
        assert_eq!(file.list().unwrap(), [one.info.clone(), two.info.clone()]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(one.token.rsplit('_').next().unwrap()),
            "{text}"
        );
        for path in [path.clone(), path.with_extension("lock")] {
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }

        assert!(file.revoke(&one.info.id).unwrap());
        assert!(!file.revoke(&one.info.id).unwrap());
        assert_eq!(tokens.find(&one.token), None);
        assert!(tokens.find(&two.token).is_some());
    }

    #[test]
    fn wrong_tokens_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::new(dir.path().join("tokens"));
        let made = file.create("n", 5, Some(1000), random(1)).unwrap();
        let at = |now| Tokens::new(dir.path().join("tokens"), Arc::new(At(now)));
        assert!(at(999).find(&made.token).is_some());
        assert_eq!(at(1000).find(&made.token), None);
        let other_secret = format!("{}{}", &made.token[..made.token.len() - 1], "_");
        for wrong in [
            "",
            "weldr_",
            "weldr__",
            &made.token[1..],
            &made.token[..made.token.len() - 1],
            &format!("{}0", made.token),
            &made.token.to_uppercase(),
            &other_secret,
        ] {
            assert_eq!(at(999).find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_damaged_file_lets_nobody_in_and_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let file = TokenFile::new(&path);
        let made = file.create("n", 5, None, random(1)).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            "x",
            "0123456789abcdef zz 1 - n",
            "0123456789abcdef",
            "ä b c d e",
        ] {
            let damaged = format!("{good}{bad}\n");
            std::fs::write(&path, &damaged).unwrap();
            let tokens = Tokens::new(path.clone(), Arc::new(WallClock));
            assert_eq!(tokens.find(&made.token), None, "{bad}");
            let error = file.create("m", 5, None, random(2)).err().unwrap();
            assert!(error.to_string().contains("line 2"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    /// Changed and random lines: any of them is a token or none, and what is one is written as it was read.
    #[test]
    fn fuzz_lines_of_the_file() {
        let good = format!("0123456789abcdef {} 12 - a name", "ab".repeat(32));
        assert!(parse(&good).is_some());
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut taken = 0;
        for _ in 0..20_000 {
            let mut bytes = good.clone().into_bytes();
            for _ in 0..next() % 4 {
                let at = (next() % bytes.len() as u64) as usize;
                match next() % 3 {
                    0 => bytes[at] = (next() % 128) as u8,
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b" +-0\xc3"[(next() % 5) as usize]),
                }
            }
            let text = String::from_utf8_lossy(&bytes).replace('\n', "");
            if let Some(line) = parse(&text) {
                taken += 1;
                let written = write(&[line]);
                let again =
                    parse(written.trim_end_matches('\n')).expect("it is written as a token");
                assert_eq!(write(&[again]), written);
            }
        }
        assert!(taken > 1_000, "{taken}");
    }

    #[test]
    fn names_stay_on_their_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = TokenFile::new(dir.path().join("tokens"));
        for name in ["", "a\nb", &"n".repeat(NAME_MAX + 1)] {
            assert!(file.create(name, 5, None, random(1)).is_err(), "{name:?}");
        }
    }
}
