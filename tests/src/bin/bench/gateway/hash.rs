//! A hash for telling bytes apart quickly. No defence against anybody who wants two to be equal.

/// A hash of bytes that costs little.
#[derive(Debug)]
pub(super) struct Hash(pub(super) u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Hash {
    /// Of these bytes alone.
    pub(super) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.add(bytes);
        hash.0
    }

    /// Goes on with these bytes, and with how many they are.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(0xa076_1d64_78bd_642f_u64);
        let (low, high) = (product as u64, (product >> 64) as u64);
        self.0 = (low ^ high).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_every_length_makes_another_hash() {
        let bytes: Vec<u8> = (0..40).collect();
        let mut seen = std::collections::HashSet::new();
        for length in 0..bytes.len() {
            assert!(seen.insert(Hash::of(&bytes[..length])));
            for at in 0..length {
                let mut other = bytes[..length].to_vec();
                other[at] ^= 0x40;
                assert!(seen.insert(Hash::of(&other)), "{length} {at}");
            }
        }
        let (mut one, mut other) = (Hash::default(), Hash::default());
        one.add(b"ab");
        one.add(b"c");
        other.add(b"a");
        other.add(b"bc");
        assert_ne!(one.0, other.0);
    }
}
