//! How it stands with an agent, and what host and guest tell each other.

use stillpoint_common::{ContactState, Failure, GuestContact, KeyValues, ToldValues, VmId};

use super::{names, time};
use crate::v1 as pb;

/// How it stands with an agent, as it travels.
#[must_use]
pub fn contact(vm: &VmId, contact: &GuestContact) -> pb::GuestContact {
    let services = contact.services.iter();
    let services = services.map(|it| pb::GuestServiceState {
        service: pb::GuestService::from(it.service).into(),
        state: pb::ContactState::from(it.state).into(),
        detail: it.detail.clone(),
    });
    pb::GuestContact {
        name: names::guest(vm),
        services: services.collect(),
        last_heard_time: contact.last_heard.map(time::timestamp),
        uptime: contact.uptime.map(time::duration),
    }
}

macro_rules! states {
    ($($state:ident),* $(,)?) => {
        impl From<ContactState> for pb::ContactState {
            fn from(state: ContactState) -> Self {
                match state { $(ContactState::$state => Self::$state,)* }
            }
        }

        /// The state that a service told of; `None` if it is none that this version knows.
        #[must_use]
        pub fn read_state(value: i32) -> Option<ContactState> {
            match pb::ContactState::try_from(value).ok()? {
                pb::ContactState::Unspecified => None,
                $(pb::ContactState::$state => Some(ContactState::$state),)*
            }
        }
    };
}

states! { Ok, Degraded, ProtocolMismatch, NoContact, LostCommunication, NotRunning, SwitchedOff }

/// Keys and values as they travel.
#[must_use]
pub fn values(values: &KeyValues) -> Vec<pb::GuestValue> {
    values.iter().map(|(key, value)| pb::GuestValue { key: key.to_owned(), value: value.to_owned() }).collect()
}

/// What host and guest tell each other, as it travels.
#[must_use]
pub fn guest_values(vm: &VmId, host: &KeyValues, guest: &Result<ToldValues, String>) -> pb::GuestValues {
    let told = guest.as_ref().ok();
    pb::GuestValues {
        name: names::guest(vm),
        host_values: values(host),
        guest_values: told.map(|told| values(&told.set)).unwrap_or_default(),
        intrinsic_values: told.map(|told| values(&told.intrinsic)).unwrap_or_default(),
        unreachable: guest.as_ref().err().cloned().unwrap_or_default(),
    }
}

/// What the host is to tell a guest from now on; `None` forgets a key.
pub type ValueChanges = Vec<(String, Option<String>)>;

/// Reads a `SetGuestValuesRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn set_guest_values(request: &pb::SetGuestValuesRequest) -> Result<(VmId, ValueChanges), Failure> {
    let vm = names::parse_guest(&request.name, "name")?;
    if request.set.is_empty() && request.unset.is_empty() {
        return Err(Failure::field("set", "neither set nor unset names a key"));
    }
    // Each by itself: whether there is room for all of them depends on those that are there.
    for (at, value) in request.set.iter().enumerate() {
        let alone = KeyValues::default().set(&value.key, &value.value);
        alone.map_err(|problem| Failure::field(format!("set[{at}]"), problem))?;
    }
    let set = request.set.iter().map(|it| (it.key.clone(), Some(it.value.clone())));
    let unset = request.unset.iter().map(|key| (key.clone(), None));
    Ok((vm, unset.chain(set).collect()))
}
