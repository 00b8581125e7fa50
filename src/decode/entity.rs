//! Entities as salted 64-bit hashes: the same on every build and machine, unreadable without the salt.
//!
//! SipHash-2-4 is keyed and specified; the hashes of std and ahash may change with any release, and
//! a store outlives releases. Two of a million entities collide with a chance of 3e-8.

use siphasher::sip::SipHasher24;

/// Hashes entities with one salt.
#[derive(Clone, Debug)]
pub struct EntityHasher(SipHasher24);

impl EntityHasher {
    /// A hasher for `salt`.
    #[must_use]
    pub fn new(salt: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(salt))
    }

    /// Hash of an entity's bytes: a text's UTF-8, a number's decimal digits, or the Kafka key as it is,
    /// so that an entity is the same whether a field or the key names it.
    #[must_use]
    pub fn hash(&self, entity: &[u8]) -> u64 {
        self.0.hash(entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_siphash_2_4_as_specified() {
        // Test vectors of the SipHash paper, appendix A: key 00..0f, message 00..0e.
        let salt: [u8; 16] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let message: Vec<u8> = (0..15).collect();
        assert_eq!(EntityHasher::new(&salt).hash(&message), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn another_salt_gives_another_hash() {
        assert_ne!(EntityHasher::new(&[1; 16]).hash(b"u42"), EntityHasher::new(&[2; 16]).hash(b"u42"));
    }
}
