//! Block numbers: 16 bits on the wire, 64 bits inside.
//!
//! RFC 1350 does not say what follows block 65535. EDK2, iPXE, U-Boot and
//! tftp-hpa go on with 0, a few clients with 1; so the first is the default
//! and the second an option.

/// What follows block 65535 on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rollover {
    /// 65535, 0, 1, ...
    #[default]
    Zero,
    /// 65535, 1, 2, ...
    One,
}

/// Distances of more than half of the number space mean "behind".
const HALF: u64 = 0x8000;

impl Rollover {
    /// The number on the wire of a block (counted from 1; 0 is the number that
    /// acknowledges an OACK).
    pub const fn wire(self, block: u64) -> u16 {
        match self {
            Self::Zero => (block & 0xffff) as u16,
            Self::One if block == 0 => 0,
            Self::One => ((block - 1) % 0xffff) as u16 + 1,
        }
    }

    /// How far `wire` lies ahead of block `base`: `Some(0)` for `base` itself,
    /// `None` for what lies behind it or can be no number of this kind.
    /// Unambiguous for windows below 32768 blocks.
    pub const fn ahead(self, base: u64, wire: u16) -> Option<u64> {
        let distance = match self {
            Self::Zero => wire.wrapping_sub((base & 0xffff) as u16) as u64,
            Self::One => {
                if wire == 0 {
                    return if base == 0 { Some(0) } else { None };
                }
                // On a circle of 65535 numbers, block 0 stands before block 1.
                (wire as u64 + 0xffff - 1 - (base + 0xffff - 1) % 0xffff) % 0xffff
            }
        };
        if distance < HALF { Some(distance) } else { None }
    }

    /// 0 or 1, as configuration and the ring write it.
    pub const fn as_u16(self) -> u16 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t60_numbers_wrap_to_zero_or_to_one() {
        for (block, zero, one) in [
            (0, 0, 0),
            (1, 1, 1),
            (65535, 65535, 65535),
            (65536, 0, 1),
            (65537, 1, 2),
            (131_070, 65534, 65535),
            (131_071, 65535, 1),
        ] {
            assert_eq!((Rollover::Zero.wire(block), Rollover::One.wire(block)), (zero, one), "{block}");
        }
    }

    #[test]
    fn t60_a_number_is_found_again_on_either_side_of_the_wrap() {
        for kind in [Rollover::Zero, Rollover::One] {
            for base in [0, 1, 2, 65530, 65534, 65535, 65536, 65537, 131_069, 131_070, 131_071, 131_072, 1 << 40] {
                for distance in [0, 1, 7, 64, 32767] {
                    assert_eq!(
                        kind.ahead(base, kind.wire(base + distance)),
                        Some(distance),
                        "{kind:?} {base}+{distance}"
                    );
                }
                for behind in [1, 2, 64] {
                    if base > behind {
                        assert_eq!(kind.ahead(base, kind.wire(base - behind)), None, "{kind:?} {base}-{behind}");
                    }
                }
            }
        }
        assert_eq!(Rollover::One.ahead(5, 0), None);
    }
}
