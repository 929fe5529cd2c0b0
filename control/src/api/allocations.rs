//! Allocating and releasing machines.

use super::{Answer, Operator, no};
use crate::allocation::{Allocated, Ask, Refused, Released};
use crate::metadata::words::clean;
use crate::objects::Error;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use std::sync::Arc;

pub(super) async fn allocate(State(operator): State<Arc<Operator>>, Json(ask): Json<Ask>) -> Answer<Allocated> {
    let allocated = operator.allocation.allocate(ask).await.map_err(|e| refused(&e))?;
    if !allocated.already {
        tracing::info!(name = allocated.name, server = allocated.server, "allocated");
    }
    Ok(Json(allocated))
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
