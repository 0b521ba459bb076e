//! The one hash: endpoint identity, rank order, rings and affinity keys.
//!
//! XXH64 with seed 0, because it exists for every language: clients, proxies and controllers must
//! agree on it. The golden vectors below must never change.

/// XXH64 of `bytes`, seed 0.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 0)
}

/// Combines two hashes, not symmetric (for rank order: `combine(proxy, endpoint)`).
#[inline]
pub fn combine(a: u64, b: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vectors() {
        assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash(b"abc"), 0x44BC_2CF5_AD77_0999);
    }
}
