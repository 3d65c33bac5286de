//! What a command writes, on its way to events: masked, in pieces that are not too small, up to a limit, and with a place so
//! that the next sidecar goes on exactly there. And at the end all of it once more, for outputs and the log.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::Path;

use serde_json::Value as Json;

use super::kept;
use crate::sandbox::{Chunk, OUTPUT_NAME, OutputStream, read_chunk};
use crate::sidecar::store::OutputPlace;
use crate::sidecar::workflows::mask::Mask;

/// Most bytes of an attempt that are told.
const TOLD_MAX: u64 = 256 * 1024;
/// Most bytes that are told at once.
pub(super) const PIECE: usize = 8 * 1024;
/// Most bytes of the end that are kept with the step.
const LOG_MAX: usize = 8 * 1024;
/// What a line begins with that sets an output.
const OUTPUT_LINE: &str = "::output ";

/// Output that was not told yet.
pub(super) struct Pending {
    mask: Mask,
    frames: VecDeque<Frame>,
    place: OutputPlace,
}

struct Frame {
    at: u64,
    next: u64,
    bytes: Vec<u8>,
    /// Bytes of it that were told.
    skip: usize,
}

impl Pending {
    pub(super) fn new(mask: Mask, place: OutputPlace) -> Self {
        Self {
            mask,
            frames: VecDeque::new(),
            place,
        }
    }

    /// How far it was told, or lies here to be.
    pub(super) fn place(&self) -> OutputPlace {
        match self.frames.back() {
            None => self.place,
            Some(last) => OutputPlace {
                frame: last.next,
                skip: 0,
                ..self.place
            },
        }
    }

    /// Takes in what is at `at`.
    pub(super) fn add(&mut self, at: u64, chunk: Chunk) {
        let skip = match at == self.place.frame {
            true => usize::try_from(self.place.skip).unwrap_or(usize::MAX),
            false => 0,
        };
        self.frames.push_back(Frame {
            at,
            next: chunk.next,
            skip: skip.min(chunk.bytes.len()),
            bytes: chunk.bytes,
        });
    }

    /// Whether there is enough for a piece.
    pub(super) fn is_much(&self) -> bool {
        let waiting: usize = self.frames.iter().map(|f| f.bytes.len() - f.skip).sum();
        waiting >= PIECE
    }

    /// The next piece, and the place after it. What may be the beginning of a secret or of a character stays, unless this
    /// `is_end`.
    pub(super) fn piece(&mut self, is_end: bool) -> Option<(String, OutputPlace)> {
        let all: Vec<u8> = self
            .frames
            .iter()
            .flat_map(|frame| frame.bytes.get(frame.skip..).unwrap_or_default())
            .copied()
            .collect();
        let safe = match is_end {
            true => all.len(),
            false => self.mask.safe(&all).min(whole_characters(&all)),
        };
        let was = self.place.told;
        let text = self.mask.bytes(all.get(..safe).unwrap_or_default());
        let mut left = safe;
        while let Some(frame) = self.frames.front_mut() {
            let there = frame.bytes.len() - frame.skip;
            if there > left {
                frame.skip += left;
                self.place.frame = frame.at;
                self.place.skip = frame.skip as u64;
                break;
            }
            left -= there;
            (self.place.frame, self.place.skip) = (frame.next, 0);
            self.frames.pop_front();
        }
        self.place.told = was.saturating_add(safe as u64);
        if safe == 0 {
            return None;
        }
        let text = match was {
            // It is still masked and its place kept, and nobody hears it.
            was if was > TOLD_MAX => String::new(),
            was if was.saturating_add(safe as u64) > TOLD_MAX => {
                "\n(further output is not told; the step shows its end once it is over)\n"
                    .to_owned()
            }
            _ => String::from_utf8_lossy(&text).into_owned(),
        };
        Some((text, self.place))
    }
}

/// How many bytes at the beginning have no character that is cut at their end.
pub(super) fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes.get(at) {
            Some(0xC0..=0xDF) => 2,
            Some(0xE0..=0xEF) => 3,
            Some(0xF0..=0xF7) => 4,
            Some(0x80..=0xBF) => continue,
            _ => return bytes.len(),
        };
        return if needs > back { at } else { bytes.len() };
    }
    bytes.len()
}

/// All of what a command wrote, as far as it is kept.
#[derive(Debug)]
pub(super) struct Whole {
    /// Its outputs, masked: `stdout` and those it set.
    pub(super) outputs: BTreeMap<String, Json>,
    /// The end of it, masked.
    pub(super) log: Option<String>,
}

/// Reads the output in `folder` from offset `first` to `written`.
pub(super) fn whole(
    folder: &Path,
    (first, written): (u64, u64),
    declared: &[String],
    mask: &Mask,
) -> Whole {
    let (mut stdout, mut both) = (Vec::new(), Vec::new());
    if let Ok(file) = File::open(folder.join(OUTPUT_NAME)) {
        let mut at = first;
        while at < written {
            // What is damaged ends it; the rest was told as far as it could be.
            let Ok(chunk) = read_chunk(&file, at) else {
                break;
            };
            at = chunk.next;
            both.extend_from_slice(&chunk.bytes);
            if chunk.stream == OutputStream::Stdout {
                stdout.extend_from_slice(&chunk.bytes);
            }
        }
    }
    if first > 0 {
        // Frames before it are gone, and with them perhaps the beginning of a secret.
        stdout = mask.bytes_from(&stdout, mask.reach());
        both = mask.bytes_from(&both, mask.reach());
    }
    let text = String::from_utf8_lossy(&stdout);
    let mut outputs = BTreeMap::from([("stdout".to_owned(), kept(mask, text.trim_end()))]);
    for line in text.lines() {
        let set = line
            .strip_prefix(OUTPUT_LINE)
            .and_then(|rest| rest.split_once('='));
        if let Some((name, value)) = set
            && declared.iter().any(|declared| declared == name.trim())
        {
            outputs.insert(name.trim().to_owned(), kept(mask, value));
        }
    }
    let masked = mask.bytes(&both);
    let from = masked.len().saturating_sub(LOG_MAX);
    let end = String::from_utf8_lossy(masked.get(from..).unwrap_or_default());
    let log = match from {
        0 if end.is_empty() => None,
        0 => Some(end.into_owned()),
        cut => Some(format!("({cut} bytes before this)\n{end}")),
    };
    Whole { outputs, log }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Secrets, write_head};

    fn chunk(at: u64, text: &[u8]) -> Chunk {
        Chunk {
            stream: OutputStream::Stdout,
            bytes: text.to_vec(),
            next: at + 5 + text.len() as u64,
        }
    }

    fn mask() -> Mask {
        Mask::of(&Secrets(BTreeMap::from([("S".into(), "canary".into())])))
    }

    /// Whenever the sidecar ends, the next one tells what is left, once.
    #[test]
    fn output_goes_on_exactly_where_it_was() {
        let frames: [&[u8]; 4] = [b"one can", b"ary two \xc3", b"\xa4 three", b" canary"];
        for cut in 0..4 {
            let mut told = String::new();
            let mut place = OutputPlace::default();
            let mut offsets = vec![0];
            for frame in frames {
                offsets.push(offsets.last().unwrap() + 5 + frame.len() as u64);
            }
            let mut first = Pending::new(mask(), place);
            for n in 0..cut {
                first.add(offsets[n], chunk(offsets[n], frames[n]));
                if let Some((text, after)) = first.piece(false) {
                    told.push_str(&text);
                    place = after;
                }
            }
            let mut second = Pending::new(mask(), place);
            for n in 0..4 {
                if offsets[n] >= place.frame {
                    second.add(offsets[n], chunk(offsets[n], frames[n]));
                }
            }
            if let Some((text, _)) = second.piece(true) {
                told.push_str(&text);
            }
            assert_eq!(told, "one *** two ä three ***", "cut after {cut}");
        }
    }

    #[test]
    fn what_is_told_has_an_end() {
        let mut pending = Pending::new(Mask::default(), OutputPlace::default());
        let (mut at, mut told, mut pieces) = (0, 0, 0);
        for _ in 0..100 {
            let one = chunk(at, &[b'x'; 10_000]);
            let next = one.next;
            pending.add(at, one);
            at = next;
            let (text, _) = pending.piece(false).unwrap();
            told += text.len();
            pieces += usize::from(!text.is_empty());
        }
        assert!(told < TOLD_MAX as usize + 1000, "{told}");
        assert_eq!(pieces, 27);
    }

    #[test]
    fn outputs_are_the_declared_lines_masked_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let mut put = |stream, text: &[u8]| {
            bytes.extend(write_head(stream, text.len()));
            bytes.extend_from_slice(text);
        };
        put(
            OutputStream::Stdout,
            b"hello\n::output version=1.2=3\n::output other=x\n::output key=canary!\n",
        );
        put(OutputStream::Stderr, b"::output version=9\n");
        put(OutputStream::Stdout, &[b'y'; 60_000]);
        std::fs::write(dir.path().join(OUTPUT_NAME), &bytes).unwrap();
        let declared = ["version".to_owned(), "key".to_owned()];
        let whole = whole(dir.path(), (0, bytes.len() as u64), &declared, &mask());
        assert_eq!(whole.outputs["version"], "1.2=3");
        assert_eq!(whole.outputs["key"], "***!");
        assert!(!whole.outputs.contains_key("other"));
        let stdout = whole.outputs["stdout"].as_str().unwrap();
        assert!(stdout.starts_with("hello\n") && stdout.ends_with("(cut here: it was longer)"));
        assert!(stdout.len() < 33_000);
        let log = whole.log.unwrap();
        assert!(log.starts_with("(5") && log.len() < 9_000, "{}", log.len());
    }

    /// Frames at the beginning go when there is too much, wherever a secret is in them.
    #[test]
    fn the_rest_of_a_secret_whose_beginning_is_gone_is_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        for cut in 1..6 {
            let (gone, left) = b"canary and canary".split_at(cut);
            let mut bytes = Vec::new();
            for text in [gone, left] {
                bytes.extend(write_head(OutputStream::Stdout, text.len()));
                bytes.extend_from_slice(text);
            }
            std::fs::write(dir.path().join(OUTPUT_NAME), &bytes).unwrap();
            let first = (5 + gone.len()) as u64;
            let whole = whole(dir.path(), (first, bytes.len() as u64), &[], &mask());
            let shown = format!("{whole:?}");
            let left = ["nary", "ary", "ry ", "y a"];
            assert!(!left.iter().any(|part| shown.contains(part)), "{shown}");
            assert!(shown.contains("***"), "{shown}");
        }
    }
}
