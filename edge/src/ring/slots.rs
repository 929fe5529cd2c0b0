//! Numbered places that are used again, never under the same id.

use super::ConnId;

/// Up to `limit` values. An id names a place and its generation, so an id
/// that is gone never finds the next tenant.
pub struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    limit: usize,
}

struct Place<T> {
    generation: u32,
    value: Option<Box<T>>,
}

impl<T> Slots<T> {
    pub fn new(limit: usize) -> Self {
        Self { places: Vec::new(), free: Vec::new(), limit }
    }

    /// How many are taken.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many more fit.
    pub fn room(&self) -> usize {
        self.limit - self.len()
    }

    /// None: full.
    pub fn insert(&mut self, value: T) -> Option<ConnId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() < self.limit => {
                self.places.push(Place { generation: 0, value: None });
                (self.places.len() - 1) as u32
            }
            None => return None,
        };
        let place = &mut self.places[index as usize];
        place.value = Some(Box::new(value));
        Some(ConnId(u64::from(place.generation) << 32 | u64::from(index)))
    }

    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        self.places
            .get_mut(id.0 as u32 as usize)
            .filter(|place| u64::from(place.generation) == id.0 >> 32)
            .and_then(|place| place.value.as_deref_mut())
    }

    pub fn remove(&mut self, id: ConnId) -> Option<Box<T>> {
        let place = self.places.get_mut(id.0 as u32 as usize)?;
        if u64::from(place.generation) != id.0 >> 32 {
            return None;
        }
        let value = place.value.take()?;
        // 24 bits, since io_uring's user data has to hold it beside the kind and the place.
        place.generation = (place.generation + 1) & 0xff_ffff;
        self.free.push(id.0 as u32);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_finds_the_next_tenant() {
        let mut slots = Slots::new(2);
        let a = slots.insert('a').unwrap();
        assert_eq!(slots.remove(a).as_deref(), Some(&'a'));
        let b = slots.insert('b').unwrap();
        assert_eq!(slots.get_mut(a), None);
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.get_mut(b), Some(&mut 'b'));
    }

    #[test]
    fn full_refuses() {
        let mut slots = Slots::new(1);
        let a = slots.insert(1).unwrap();
        assert_eq!(slots.room(), 0);
        assert_eq!(slots.insert(2), None);
        slots.remove(a);
        assert!(slots.insert(3).is_some());
        assert_eq!(slots.len(), 1);
    }
}
