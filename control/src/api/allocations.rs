//! Allocating and releasing machines.

use super::{Answer, Operator, no};
use crate::allocation::{Allocated, Ask, Refused, Released};
use crate::environments::Known;
use crate::lifecycle::DEFAULT_ENVIRONMENT;
use crate::metadata::words::clean;
use crate::objects::{Error, Objects as _};
use crate::resource::{Kind, Server, ServerBinding, ServerClass, Typed as _};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

pub(super) async fn allocate(State(operator): State<Arc<Operator>>, Json(ask): Json<Ask>) -> Answer<Allocated> {
    let mut allocated = operator.allocation.allocate(ask).await.map_err(|e| refused(&e))?;
    allocated.warnings = warnings(&operator, &allocated.server).await;
    if !allocated.already {
        tracing::info!(name = allocated.name, server = allocated.server, "allocated");
    }
    Ok(Json(allocated))
}

/// What the machine has to wait for.
async fn warnings(operator: &Operator, server: &str) -> Vec<String> {
    let name = match environment(operator, server).await {
        Ok(name) => name,
        Err(e) => return vec![format!("its Environment could not be looked up: {}", clean(&e.to_string()))],
    };
    match operator.environments.known(&name) {
        Known::Ready => Vec::new(),
        Known::NotReady(why) => vec![format!("Environment {name} is not ready, the machine waits for it: {why}")],
        Known::No => {
            vec![format!("there is no Environment {name}: the machine waits until one of that name is applied")]
        }
    }
}

/// From what a machine will be installed.
async fn environment(operator: &Operator, server: &str) -> Result<String, Error> {
    let objects = &operator.objects;
    let bad = |e| Error::Invalid(vec![e]);
    let binding = ServerBinding::from_object(&objects.get(Kind::ServerBinding, "", server).await?).map_err(bad)?;
    let machine = Server::from_object(&objects.get(Kind::Server, "", server).await?).map_err(bad)?;
    let mut of_class = None;
    if let Some(class) = &binding.spec.server_class_ref {
        let class = ServerClass::from_object(&objects.get(Kind::ServerClass, "", &class.name).await?).map_err(bad)?;
        of_class = class.spec.environment_ref;
    }
    let named = binding.spec.environment_ref.or(machine.spec.environment_ref).or(of_class).map(|r| r.name);
    let default = || operator.environments.default_name().unwrap_or(DEFAULT_ENVIRONMENT).to_owned();
    Ok(named.unwrap_or_else(default))
}

pub(super) async fn release(State(operator): State<Arc<Operator>>, Path(which): Path<String>) -> Answer<Released> {
    let released = operator.allocation.release(&which).await.map_err(|e| refused(&e))?;
    if !released.already {
        tracing::info!(name = released.name, server = released.server, "released; its disks will be wiped");
    }
    Ok(Json(released))
}

/// Names in the texts may come from anybody who can reach this API.
fn refused(e: &Refused) -> (StatusCode, Json<super::types::Problem>) {
    let status = match e {
        Refused::Name(_) | Refused::Config(_) | Refused::Store(Error::Invalid(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        Refused::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::NoClass(_)
        | Refused::NoServer(_)
        | Refused::NoEnvironment(_)
        | Refused::NotAllocated(_)
        | Refused::Store(Error::NotFound(_)) => StatusCode::NOT_FOUND,
        Refused::NoneFree { .. }
        | Refused::NotFree { .. }
        | Refused::Taken { .. }
        | Refused::ClusterOwned { .. }
        | Refused::Store(Error::Conflict { .. } | Error::Exists(_)) => StatusCode::CONFLICT,
        Refused::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    no(status, clean(&e.to_string()), "")
}
