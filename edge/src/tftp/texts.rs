//! Files as netascii. Hardly anybody asks for them, so they are translated when
//! asked for, and a few are kept.

use crate::catalog::Image;
use crate::limits;
use protocol::manifest::ObjectId;
use protocol::tftp::netascii;
use std::collections::VecDeque;
use std::sync::Arc;

/// Translated files, the latest last.
#[derive(Default)]
pub struct Texts {
    kept: VecDeque<(ObjectId, Arc<Image>)>,
}

impl Texts {
    /// The image as it goes over the wire in netascii.
    ///
    /// # Errors
    /// Words for the client.
    pub fn translate(&mut self, image: &Arc<Image>) -> Result<Arc<Image>, &'static str> {
        if image.len() > limits::TFTP_NETASCII_MAX {
            return Err("too long for netascii: use octet");
        }
        if let Some((_, text)) = self.kept.iter().find(|(id, _)| *id == image.id()) {
            return Ok(Arc::clone(text));
        }
        let text =
            Image::from_bytes(&netascii::encode(image.bytes())).map_err(|_| "no memory to translate: use octet")?;
        if self.kept.len() >= limits::TFTP_NETASCII_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((image.id(), Arc::clone(&text)));
        Ok(text)
    }
}
