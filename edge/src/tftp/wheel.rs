//! A hashed timer wheel: one deadline for each slot of a table, no allocation
//! after the start, all operations but [`Wheel::next`] in constant time.

use protocol::time::{Duration, Instant};

/// One tick, nanoseconds: short enough for the pauses between bursts.
const TICK: u64 = 1_000_000;

/// Buckets; a power of two. Deadlines further away than so many ticks wait in
/// their bucket for another round.
const BUCKETS: usize = 4096;

const WORDS: usize = BUCKETS / 64;

/// No index.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    previous: u32,
    next: u32,
    /// The tick that it is armed for; 0: not armed.
    at: u64,
}

/// See the module's description.
pub struct Wheel {
    heads: Box<[u32; BUCKETS]>,
    /// Which buckets hold something.
    filled: [u64; WORDS],
    nodes: Box<[Node]>,
    /// Everything before this tick has been told.
    now: u64,
    armed: usize,
}

impl Wheel {
    /// For indices below `capacity`.
    pub fn new(capacity: usize) -> Self {
        let unarmed = Node { previous: NONE, next: NONE, at: 0 };
        Self {
            heads: Box::new([NONE; BUCKETS]),
            filled: [0; WORDS],
            nodes: vec![unarmed; capacity].into(),
            now: 1,
            armed: 0,
        }
    }

    /// Arms an index for a moment, unless it is armed for an earlier one: it is
    /// told then, and the owner arms it anew. So a deadline that is put off with
    /// every packet costs nothing.
    pub fn arm(&mut self, index: u32, deadline: Instant) {
        // Rounded up: never told before its time.
        let at = deadline.0.div_ceil(TICK).max(self.now);
        match self.nodes.get(index as usize) {
            Some(node) if node.at == 0 || node.at > at => {
                self.disarm(index);
                self.link(index, at);
            }
            _ => {}
        }
    }

    /// Forgets an index.
    pub fn disarm(&mut self, index: u32) {
        let Some(&Node { previous, next, at }) = self.nodes.get(index as usize) else { return };
        if at == 0 {
            return;
        }
        self.armed -= 1;
        let bucket = bucket_of(at);
        match self.nodes.get_mut(previous as usize) {
            Some(node) => node.next = next,
            None => self.heads[bucket] = next,
        }
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.previous = previous;
        }
        if self.heads[bucket] == NONE {
            self.filled[bucket / 64] &= !(1 << (bucket % 64));
        }
        self.nodes[index as usize].at = 0;
    }

    /// When to call [`Wheel::expire`]: not after the earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        let start = bucket_of(self.now);
        let ticks = self.first_filled(start)?;
        Some(Instant((self.now + ticks as u64) * TICK))
    }

    /// Moves one index whose time has come to the caller; `None`: no more.
    /// To be called until then.
    pub fn expire(&mut self, now: Instant) -> Option<u32> {
        let until = now.0 / TICK;
        while self.armed > 0 && self.now <= until {
            let start = bucket_of(self.now);
            let Some(ticks) = self.first_filled(start).filter(|&ticks| self.now + ticks as u64 <= until) else { break };
            let bucket = (start + ticks) % BUCKETS;
            let tick = self.now + ticks as u64;
            let mut index = self.heads[bucket];
            while let Some(node) = self.nodes.get(index as usize) {
                if node.at <= until {
                    self.disarm(index);
                    return Some(index);
                }
                index = node.next;
            }
            // Only deadlines of later rounds are left here.
            self.now = tick + 1;
        }
        self.now = self.now.max(until + 1);
        None
    }

    fn link(&mut self, index: u32, at: u64) {
        let bucket = bucket_of(at);
        let next = self.heads[bucket];
        if let Some(node) = self.nodes.get_mut(next as usize) {
            node.previous = index;
        }
        self.nodes[index as usize] = Node { previous: NONE, next, at };
        self.heads[bucket] = index;
        self.filled[bucket / 64] |= 1 << (bucket % 64);
        self.armed += 1;
    }

    /// Buckets from `start` on, around the wheel, to the first that holds something.
    fn first_filled(&self, start: usize) -> Option<usize> {
        let (word, bit) = (start / 64, start % 64);
        let here = self.filled[word] >> bit;
        if here != 0 {
            return Some(here.trailing_zeros() as usize);
        }
        (1..=WORDS).find_map(|step| {
            let filled = self.filled[(word + step) % WORDS];
            (filled != 0).then(|| step * 64 - bit + filled.trailing_zeros() as usize)
        })
    }
}

fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

/// The longest that a deadline is told late: one tick.
pub const RESOLUTION: Duration = Duration::from_nanos(TICK);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn told(wheel: &mut Wheel, now: Instant) -> Vec<u32> {
        let mut all = Vec::new();
        while let Some(index) = wheel.expire(now) {
            all.push(index);
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn an_empty_wheel_wakes_nobody() {
        let mut wheel = Wheel::new(4);
        assert_eq!(wheel.next(), None);
        assert!(told(&mut wheel, at(1_000_000)).is_empty());
        wheel.arm(0, at(1_000_050));
        wheel.disarm(0);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn deadlines_are_told_once_when_they_come_and_not_before() {
        let mut wheel = Wheel::new(4);
        told(&mut wheel, at(1000));
        wheel.arm(0, at(1050));
        wheel.arm(1, Instant(at(1050).0 - 1));
        wheel.arm(2, at(60_000));
        assert_eq!(wheel.next(), Some(at(1050)));
        assert!(told(&mut wheel, at(1049)).is_empty());
        assert_eq!(told(&mut wheel, at(1050)), [0, 1]);
        assert!(told(&mut wheel, at(59_999)).is_empty());
        assert_eq!(told(&mut wheel, at(60_000)), [2]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_later_deadline_changes_nothing_and_an_earlier_one_counts() {
        let mut wheel = Wheel::new(1);
        told(&mut wheel, at(10));
        wheel.arm(0, at(100));
        wheel.arm(0, at(200));
        assert_eq!(told(&mut wheel, at(100)), [0]);
        wheel.arm(0, at(200));
        wheel.arm(0, at(150));
        assert_eq!(told(&mut wheel, at(150)), [0]);
        wheel.arm(0, at(20));
        assert_eq!(told(&mut wheel, at(151)), [0], "a deadline in the past is told at once");
    }

    proptest! {
        #[test]
        fn the_wheel_tells_what_a_sorted_map_tells(steps in prop::collection::vec((0_u32..20, 0_u64..12_000, 0_u64..3_000), 1..200)) {
            let mut wheel = Wheel::new(20);
            let mut map: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = 5_000;
            told(&mut wheel, at(now));
            for (index, ahead, pass) in steps {
                wheel.arm(index, at(now + ahead));
                let entry = map.entry(index).or_insert(u64::MAX);
                *entry = (*entry).min((now + ahead).max(now + 1));
                now += pass;
                if let (Some(next), Some(&first)) = (wheel.next(), map.values().min()) {
                    prop_assert!(next <= at(first));
                }
                let due: Vec<u32> = map.iter().filter(|&(_, &t)| t <= now).map(|(&i, _)| i).collect();
                map.retain(|_, t| *t > now);
                prop_assert_eq!(told(&mut wheel, at(now)), due);
            }
        }
    }
}
