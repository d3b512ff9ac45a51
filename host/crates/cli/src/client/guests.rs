//! What host and guest tell each other, and how it stands with the agent.

use stillpoint_common::VmId;
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, guests_client::GuestsClient},
};

use super::{Client, ClientError};
use crate::view::{self, GuestContact, GuestValues, Value};

impl Client {
    /// How it stands with each service of a VM's agent.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn guest_contact(&self, vm: &VmId) -> Result<GuestContact, ClientError> {
        let request = pb::GetGuestContactRequest { name: names::guest(vm) };
        let answer = GuestsClient::new(self.channel.clone()).get_guest_contact(request).await;
        Ok(self.answered(answer)?.into())
    }

    /// What host and guest tell each other.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn guest_values(&self, vm: &VmId) -> Result<GuestValues, ClientError> {
        let request = pb::ListGuestValuesRequest { name: names::guest(vm) };
        let answer = GuestsClient::new(self.channel.clone()).list_guest_values(request).await;
        Ok(self.answered(answer)?.into())
    }

    /// Changes what the host tells the guest. Answers all of it, and whether the guest has it now.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn set_guest_values(
        &self,
        vm: &VmId,
        set: &[(String, String)],
        unset: &[String],
    ) -> Result<(Vec<Value>, bool), ClientError> {
        let value = |(key, value): &(String, String)| pb::GuestValue { key: key.clone(), value: value.clone() };
        let request = pb::SetGuestValuesRequest {
            name: names::guest(vm),
            set: set.iter().map(value).collect(),
            unset: unset.to_vec(),
        };
        let answer = GuestsClient::new(self.channel.clone()).set_guest_values(request).await;
        let answer = self.answered(answer)?;
        Ok((view::values(answer.host_values), answer.given))
    }
}
