//! The same claim for others than our own allocations: Cluster API's MetalMachines.

use super::Allocation;
use super::claim::{From, Refused, found, seed};
use crate::limits;
use crate::objects::{Error, Objects};
use crate::resource::{Kind, ServerBinding};

impl<O: Objects> Allocation<O> {
    /// Servers that may be had for `claimant`, best first; `zone` is the value of their zone label.
    ///
    /// # Errors
    /// There is no such class or Server, or none is free: with the reason.
    pub async fn candidates(&self, from: &From, zone: Option<&str>, claimant: &str) -> Result<Vec<String>, Refused> {
        match from {
            From::Server(name) => Ok(vec![name.clone()]),
            From::Class(class) => {
                found(self.objects.get(Kind::ServerClass, "", class).await, || Refused::NoClass(class.clone()))?;
                let index = self.index();
                let free = index.free_in(class, zone, seed(claimant), limits::CLAIM_TRIES);
                if free.is_empty() {
                    let mut why = index.why_none(class);
                    if let Some(zone) = zone {
                        why = format!("none in failure domain {zone}; {why}");
                    }
                    return Err(Refused::NoneFree { class: class.clone(), why });
                }
                Ok(free)
            }
        }
    }

    /// Claims the Server that `binding` is named after. `agreed` is asked between the mark on the Server and the
    /// binding: there the claimant writes down, over the version it has read, which Server it reaches for, so that
    /// two who claim for the same one cannot both succeed.
    ///
    /// # Errors
    /// See [`Refused`]; then there is no binding.
    pub async fn bind(
        &self,
        binding: ServerBinding,
        claimant: &str,
        agreed: impl AsyncFnOnce() -> Result<(), Error>,
    ) -> Result<(), Refused> {
        let (object, _) = self.free_server(&binding.metadata.name).await?;
        let claimed = self.mark(object, claimant).await?;
        let made = match agreed().await {
            Ok(()) => self.put(binding).await,
            Err(e) => Err(e.into()),
        };
        self.unclaim(claimed).await;
        made
    }
}
