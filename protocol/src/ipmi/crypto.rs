//! The arithmetic of an RMCP+ session: authentication, integrity and
//! confidentiality of cipher suites 3 and 17 (IPMI 2.0 section 22.15.2, table 22-20).
//!
//! Suites 0 to 2 lack authentication or secrecy and are not spoken at all.

use aes::Aes128;
use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use alloc::vec::Vec;
use hmac::{Hmac, KeyInit};

/// A cipher suite that we speak.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Suite {
    /// RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128: what every IPMI 2.0 BMC has.
    S3,
    /// RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    S17,
}

impl Suite {
    /// The number that BMCs and ipmitool use.
    pub const fn number(self) -> u8 {
        match self {
            Self::S3 => 3,
            Self::S17 => 17,
        }
    }

    /// The suite of this number, where we speak it.
    pub const fn from_number(n: u8) -> Option<Self> {
        match n {
            3 => Some(Self::S3),
            17 => Some(Self::S17),
            _ => None,
        }
    }

    /// Algorithm numbers: authentication, integrity, confidentiality (tables 13-17 to 13-19).
    pub const fn algorithms(self) -> (u8, u8, u8) {
        match self {
            Self::S3 => (1, 1, 1),
            Self::S17 => (3, 4, 1),
        }
    }

    /// Length of an authentication code in RAKP 2 and 3, bytes.
    pub const fn auth_len(self) -> usize {
        match self {
            Self::S3 => 20,
            Self::S17 => 32,
        }
    }

    /// Length of the integrity check value of a packet, bytes.
    pub const fn icv_len(self) -> usize {
        match self {
            Self::S3 => 12,
            Self::S17 => 16,
        }
    }

    /// HMAC over the parts in turn. HMAC takes a key of any length.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::S3 => hmac_with::<Hmac<sha1::Sha1>>(key, parts),
            Self::S17 => hmac_with::<Hmac<sha2::Sha256>>(key, parts),
        }
    }
}

fn hmac_with<M: hmac::Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else {
        return Vec::new(); // not reached: HMAC has no wrong key length; an empty code never matches
    };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// Compares without telling by its duration where the first difference is.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    !a.is_empty() && a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// The keys of one session (section 13.31 to 13.33).
#[derive(Clone)]
pub struct Keys {
    suite: Suite,
    /// Session integrity key.
    pub sik: Vec<u8>,
    k1: Vec<u8>,
    aes: [u8; 16],
}

impl Keys {
    /// From the two random numbers, the role byte and the user name.
    pub fn derive(
        suite: Suite,
        kg: &[u8],
        console_random: &[u8; 16],
        bmc_random: &[u8; 16],
        role_and_user: &[u8],
    ) -> Self {
        let sik = suite.hmac(kg, &[console_random, bmc_random, role_and_user]);
        // The constants are 20 bytes long with SHA-256 too (section 13.32).
        let k1 = suite.hmac(&sik, &[&[1; 20]]);
        let k2 = suite.hmac(&sik, &[&[2; 20]]);
        let mut aes = [0; 16];
        aes.iter_mut().zip(&k2).for_each(|(to, from)| *to = *from);
        Self { suite, sik, k1, aes }
    }

    /// The suite that these keys belong to.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Integrity check value over a packet from its authentication type byte on.
    pub fn icv(&self, bytes: &[u8]) -> Vec<u8> {
        let mut code = self.suite.hmac(&self.k1, &[bytes]);
        code.truncate(self.suite.icv_len());
        code
    }

    /// AES-CBC-128 with the confidentiality trailer (pad 1, 2, 3 ... and its length, section 13.29); the IV goes in front.
    pub fn encrypt(&self, iv: [u8; 16], message: &[u8]) -> Vec<u8> {
        let pad = (16 - (message.len() + 1) % 16) % 16;
        let mut data = message.to_vec();
        data.extend((1u8..).take(pad));
        data.push(u8::try_from(pad).unwrap_or(0));
        let len = data.len();
        let cipher = cbc::Encryptor::<Aes128>::new(&self.aes.into(), &iv.into());
        if cipher.encrypt_padded::<NoPadding>(&mut data, len).is_err() {
            return Vec::new(); // not reached: the length is a multiple of the block
        }
        [iv.as_slice(), &data].concat()
    }

    /// Undoes [`Keys::encrypt`]; `None` for what cannot have come from it.
    pub fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (iv, data) = sealed.split_first_chunk::<16>()?;
        if data.is_empty() || data.len() % 16 != 0 {
            return None;
        }
        let mut data = data.to_vec();
        let cipher = cbc::Decryptor::<Aes128>::new(&self.aes.into(), iv.into());
        cipher.decrypt_padded::<NoPadding>(&mut data).ok()?;
        let pad = usize::from(*data.last()?);
        let end = data.len().checked_sub(pad + 1)?;
        if pad > 15 || !data.get(end..end + pad)?.iter().copied().eq((1u8..).take(pad)) {
            return None;
        }
        data.truncate(end);
        Some(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_can_be_read_again_at_every_length() {
        for suite in [Suite::S3, Suite::S17] {
            let keys = Keys::derive(suite, b"key", &[1; 16], &[2; 16], b"\x14\x05admin");
            for len in 0..70 {
                let text: Vec<u8> = (0..len).collect();
                let sealed = keys.encrypt([9; 16], &text);
                assert_eq!(sealed.len() % 16, 0);
                assert_eq!(keys.decrypt(&sealed).as_deref(), Some(&text[..]));
            }
        }
    }

    #[test]
    fn damaged_ciphertext_is_refused_or_different_but_never_a_panic() {
        let keys = Keys::derive(Suite::S17, b"key", &[1; 16], &[2; 16], b"");
        let sealed = keys.encrypt([9; 16], b"hello");
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 0x55;
            assert_ne!(keys.decrypt(&bad).as_deref(), Some(&b"hello"[..]));
            assert_ne!(keys.decrypt(&sealed[..i]).as_deref(), Some(&b"hello"[..]));
        }
    }

    #[test]
    fn comparison_needs_equal_and_present() {
        assert!(same(b"ab", b"ab"));
        assert!(!same(b"ab", b"ac") && !same(b"ab", b"a") && !same(b"", b""));
    }
}
