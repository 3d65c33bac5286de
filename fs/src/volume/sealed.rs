//! Objects of JSON with a checksum in them, so that one flipped bit of a number or a name is found out.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What can hold its own checksum.
pub(super) trait Sealed: Clone + Serialize + DeserializeOwned {
    /// Where it is: the CRC-32C of the value's compact JSON while this is 0.
    fn seal(&mut self) -> &mut u32;
}

fn sum<T: Sealed>(value: &T) -> serde_json::Result<u32> {
    let mut bare = value.clone();
    *bare.seal() = 0;
    Ok(crc32c::crc32c(&serde_json::to_vec(&bare)?))
}

/// The object's bytes, with its checksum.
///
/// # Errors
/// When it cannot be written as JSON.
pub(super) fn write<T: Sealed>(value: &T) -> serde_json::Result<Bytes> {
    let mut sealed = value.clone();
    *sealed.seal() = sum(value)?;
    serde_json::to_vec_pretty(&sealed).map(Bytes::from)
}

/// The value in an object's bytes.
///
/// # Errors
/// What is wrong with them, for people.
pub(super) fn read<T: Sealed>(bytes: &[u8]) -> Result<T, String> {
    let mut value: T = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let wanted = *value.seal();
    let found = sum(&value).map_err(|error| error.to_string())?;
    match found == wanted {
        true => Ok(value),
        false => Err("it has the wrong checksum".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
        number: u64,
        crc32c: u32,
    }

    impl Sealed for Note {
        fn seal(&mut self) -> &mut u32 {
            &mut self.crc32c
        }
    }

    #[test]
    fn every_flipped_bit_is_found_out_or_changes_nothing() {
        let note = Note {
            text: "a name".into(),
            number: 1_234_567,
            crc32c: 0,
        };
        let bytes = write(&note).unwrap();
        let read_back: Note = read(&bytes).unwrap();
        assert_eq!(
            (&read_back.text, read_back.number),
            (&note.text, note.number)
        );
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(value) = read::<Note>(&damaged) {
                // White space between the fields has no meaning.
                assert_eq!(value, read_back, "bit {bit}");
            }
        }
    }
}
