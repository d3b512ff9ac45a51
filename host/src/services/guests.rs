//! `Guests`

use stillpoint_engine::Engine;
use stillpoint_proto::{
    convert::{self, names},
    v1::{self as pb, guests_server},
};
use tonic::{Request, Response, Status};

use super::refuse;

pub(crate) struct Guests {
    engine: Engine,
}

impl Guests {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl guests_server::Guests for Guests {
    async fn get_guest(&self, asked: Request<pb::GetGuestRequest>) -> Result<Response<pb::Guest>, Status> {
        let id = names::parse_guest(&asked.get_ref().name, "name").map_err(refuse)?;
        let guest = self.engine.guest(&id).await.map_err(refuse)?;
        Ok(Response::new(convert::guest::guest(&id, &guest)))
    }

    async fn list_writers(
        &self,
        asked: Request<pb::ListWritersRequest>,
    ) -> Result<Response<pb::ListWritersResponse>, Status> {
        let id = names::parse_guest(&asked.get_ref().parent, "parent").map_err(refuse)?;
        let guest = self.engine.guest(&id).await.map_err(refuse)?;
        Ok(Response::new(pb::ListWritersResponse { writers: convert::guest::guest(&id, &guest).writers }))
    }

    async fn get_guest_contact(
        &self,
        asked: Request<pb::GetGuestContactRequest>,
    ) -> Result<Response<pb::GuestContact>, Status> {
        let id = names::parse_guest(&asked.get_ref().name, "name").map_err(refuse)?;
        let contact = self.engine.guest_contact(&id).await.map_err(refuse)?;
        Ok(Response::new(convert::contact::contact(&id, &contact)))
    }

    async fn list_guest_values(
        &self,
        asked: Request<pb::ListGuestValuesRequest>,
    ) -> Result<Response<pb::GuestValues>, Status> {
        let id = names::parse_guest(&asked.get_ref().name, "name").map_err(refuse)?;
        let values = self.engine.guest_values(&id).await.map_err(refuse)?;
        Ok(Response::new(convert::contact::guest_values(&id, &values.host, &values.guest)))
    }

    async fn set_guest_values(
        &self,
        asked: Request<pb::SetGuestValuesRequest>,
    ) -> Result<Response<pb::SetGuestValuesResponse>, Status> {
        let (id, values) = convert::contact::set_guest_values(asked.get_ref()).map_err(refuse)?;
        let (host, given) = self.engine.set_guest_values(&id, values).await.map_err(refuse)?;
        Ok(Response::new(pb::SetGuestValuesResponse { host_values: convert::contact::values(&host), given }))
    }
}
