//! Reading little-endian fields from untrusted bytes. Total: a field that is not there is `None`, never a panic.

/// The bytes not read yet.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_the_bytes_end() {
        let mut fields = Fields::new(&[1, 2, 0, 0, 0, 9]);
        assert_eq!(fields.array(), Some([1]));
        assert_eq!(fields.u32(), Some(2));
        assert_eq!(fields.u64(), None);
        assert_eq!(fields.array::<1>(), Some([9]));
        assert_eq!(fields.array::<1>(), None);
    }
}
