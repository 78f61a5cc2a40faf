//! `contictl net`

use std::collections::BTreeMap;

use clap::Args;
use conti_proto::v1::{
    Address, Link, ListNetworkRequest, ListNetworkResponse, Neighbour, NeighbourState,
    OperationalState, Route, RouteType,
};
use serde_json::{Value, json};

use crate::{
    error::Result,
    flags::target::Target,
    output::{self, Format, text},
    verb::Context,
};

/// Show the network of a target: links, addresses, routes and neighbours
///
/// Without a choice links with their addresses, the routes of the main table and neighbours are shown.
#[derive(Debug, Args)]
pub struct Net {
    /// Show links and their addresses
    #[arg(long)]
    links: bool,
    /// Show routes
    #[arg(long)]
    routes: bool,
    /// Show the routes of all tables
    #[arg(long)]
    all_tables: bool,
    /// Show neighbours, including permanent and multicast entries (NOARP)
    #[arg(long)]
    neighbours: bool,
    /// CONTAINER, pid:PID or host
    target: Target,
}

/// The main table and that of local addresses (rtnetlink(7)).
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

impl Net {
    /// Asks, and shows what is found.
    pub async fn run(self, context: &Context) -> Result<u8> {
        let request = ListNetworkRequest { target: Some(self.target.clone().into()) };
        let mut client = context.connect().await?.network();
        let mut stream = client.list_network(request).await?.into_inner();
        let mut found = ListNetworkResponse::default();
        while let Some(part) = stream.message().await? {
            found.links.extend(part.links);
            found.addresses.extend(part.addresses);
            found.routes.extend(part.routes);
            found.neighbours.extend(part.neighbours);
            found.disturbed |= part.disturbed;
        }
        if found.disturbed {
            output::note(
                "the network changed meanwhile, or is not understood: something may be missing or there twice",
            );
        }
        if context.format == Format::Json {
            output::json(&object(&found))?;
        } else {
            self.tables(&found)?;
        }
        Ok(0)
    }

    fn tables(&self, found: &ListNetworkResponse) -> Result<()> {
        let routes = self.routes || self.all_tables;
        let all = !(self.links || routes || self.neighbours);
        let names: BTreeMap<u32, &str> =
            found.links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let mut first = true;
        let mut gap = || if std::mem::take(&mut first) { Ok(()) } else { output::line("") };
        if self.links || all {
            gap()?;
            let header =
                ["LINK", "KIND", "STATE", "MTU", "HARDWARE", "RECEIVED", "SENT", "ADDRESSES"];
            let rows = found.links.iter().map(|link| link_row(link, &found.addresses, &names));
            output::table(header, rows.collect())?;
        }
        if routes || all {
            gap()?;
            let header =
                ["DESTINATION", "GATEWAY", "LINK", "SOURCE", "METRIC", "TYPE", "TABLE", "BY"];
            let wanted = |route: &&Route| self.all_tables || route.table == MAIN;
            let rows = found.routes.iter().filter(wanted);
            output::table(header, rows.flat_map(|route| route_rows(route, &names)).collect())?;
        }
        if self.neighbours || all {
            gap()?;
            // Of those that need not be asked there are many, and they say little.
            let wanted = |one: &&Neighbour| self.neighbours || one.state() != NeighbourState::Noarp;
            let rows = found.neighbours.iter().filter(wanted);
            let rows = rows.map(|one| neighbour_row(one, &names)).collect();
            output::table(["NEIGHBOUR", "LINK", "HARDWARE", "STATE"], rows)?;
        }
        Ok(())
    }
}

/// The name of a link, or its number where it has none here.
fn name(index: u32, names: &BTreeMap<u32, &str>) -> String {
    match (index, names.get(&index)) {
        (0, _) => "-".to_owned(),
        (_, Some(name)) => (*name).to_owned(),
        (index, None) => index.to_string(),
    }
}

fn hardware(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn link_row(link: &Link, addresses: &[Address], names: &BTreeMap<u32, &str>) -> [String; 8] {
    let mut title = link.name.clone();
    match (link.link_index, link.link_namespace_id) {
        (0, _) => {}
        (index, Some(id)) => title.push_str(&format!("@{index} of namespace {id}")),
        (index, None) => title.push_str(&format!("@{}", name(index, names))),
    }
    let statistics = link.statistics.unwrap_or_default();
    let own = addresses.iter().filter(|address| address.link_index == link.index);
    let own: Vec<String> =
        own.map(|one| format!("{}/{}", one.address, one.prefix_length)).collect();
    // Those that cannot tell are as their administrator set them up.
    let state = match link.operational_state() {
        OperationalState::Unspecified | OperationalState::Unknown if link.up => "up".to_owned(),
        OperationalState::Unspecified | OperationalState::Unknown => "down".to_owned(),
        state => operational(state),
    };
    [
        title,
        or_dash(&link.kind),
        state,
        link.mtu.to_string(),
        hardware(&link.hardware_address),
        text::size(statistics.received_bytes),
        text::size(statistics.sent_bytes),
        or_dash(&own.join(" ")),
    ]
}

fn operational(state: OperationalState) -> String {
    text::enum_name(state.as_str_name(), "OPERATIONAL_STATE_")
}

/// A line for each hop; one where there is none.
fn route_rows(route: &Route, names: &BTreeMap<u32, &str>) -> Vec<[String; 8]> {
    let destination = match route.destination.as_str() {
        "" => "default".to_owned(),
        ip => format!("{ip}/{}", route.prefix_length),
    };
    let row = |gateway: &str, index| {
        [
            destination.clone(),
            or_dash(gateway),
            name(index, names),
            or_dash(&route.preferred_source),
            route.metric.to_string(),
            route_type(route.r#type()),
            match route.table {
                MAIN => "main".to_owned(),
                LOCAL => "local".to_owned(),
                other => other.to_string(),
            },
            maker(route.protocol),
        ]
    };
    if route.next_hops.is_empty() {
        return vec![row("", 0)];
    }
    route.next_hops.iter().map(|hop| row(&hop.gateway, hop.link_index)).collect()
}

fn route_type(kind: RouteType) -> String {
    text::enum_name(kind.as_str_name(), "ROUTE_TYPE_")
}

/// The well-known ones of rtnetlink(7).
fn maker(protocol: u32) -> String {
    match protocol {
        1 => "redirect".to_owned(),
        2 => "kernel".to_owned(),
        3 => "boot".to_owned(),
        4 => "static".to_owned(),
        9 => "ra".to_owned(),
        16 => "dhcp".to_owned(),
        186 => "bgp".to_owned(),
        other => other.to_string(),
    }
}

fn neighbour_row(one: &Neighbour, names: &BTreeMap<u32, &str>) -> [String; 4] {
    [
        one.address.clone(),
        name(one.link_index, names),
        hardware(&one.hardware_address),
        neighbour_state(one),
    ]
}

fn neighbour_state(one: &Neighbour) -> String {
    text::enum_name(one.state().as_str_name(), "NEIGHBOUR_STATE_")
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn object(found: &ListNetworkResponse) -> Value {
    json!({
        "links": found.links.iter().map(link_object).collect::<Vec<_>>(),
        "addresses": found.addresses.iter().map(address_object).collect::<Vec<_>>(),
        "routes": found.routes.iter().map(route_object).collect::<Vec<_>>(),
        "neighbours": found.neighbours.iter().map(|one| json!({
            "address": one.address,
            "link_index": one.link_index,
            "hardware_address": hardware(&one.hardware_address),
            "state": neighbour_state(one),
            "flags": one.flags,
        })).collect::<Vec<_>>(),
        "disturbed": found.disturbed,
    })
}

fn link_object(link: &Link) -> Value {
    let statistics = link.statistics.map(|count| {
        json!({
            "received_bytes": count.received_bytes,
            "received_packets": count.received_packets,
            "received_errors": count.received_errors,
            "received_dropped": count.received_dropped,
            "sent_bytes": count.sent_bytes,
            "sent_packets": count.sent_packets,
            "sent_errors": count.sent_errors,
            "sent_dropped": count.sent_dropped,
        })
    });
    let index = |index: u32| Some(index).filter(|&index| index != 0);
    json!({
        "index": link.index,
        "name": link.name,
        "alternative_names": link.alternative_names,
        "kind": some(&link.kind),
        "hardware_type": link.hardware_type,
        "flags": link.flags,
        "up": link.up,
        "operational_state": operational(link.operational_state()),
        "mtu": link.mtu,
        "hardware_address": hardware(&link.hardware_address),
        "broadcast_address": hardware(&link.broadcast_address),
        "master_index": index(link.master_index),
        "link_index": index(link.link_index),
        "link_namespace_id": link.link_namespace_id,
        "queueing": some(&link.queueing),
        "queue_length": link.queue_length,
        "statistics": statistics,
    })
}

fn address_object(address: &Address) -> Value {
    json!({
        "link_index": address.link_index,
        "address": address.address,
        "prefix_length": address.prefix_length,
        "peer": some(&address.peer),
        "broadcast": some(&address.broadcast),
        "scope": address.scope,
        "flags": address.flags,
        "label": some(&address.label),
        "valid_seconds": address.valid_lifetime.map(|time| time.seconds),
        "preferred_seconds": address.preferred_lifetime.map(|time| time.seconds),
    })
}

fn route_object(route: &Route) -> Value {
    json!({
        "ip_version": route.ip_version,
        "type": route_type(route.r#type()),
        "destination": some(&route.destination),
        "prefix_length": route.prefix_length,
        "table": route.table,
        "protocol": route.protocol,
        "scope": route.scope,
        "preferred_source": some(&route.preferred_source),
        "metric": route.metric,
        "flags": route.flags,
        "next_hops": route.next_hops.iter().map(|hop| json!({
            "gateway": some(&hop.gateway),
            "link_index": hop.link_index,
            "weight": hop.weight,
            "flags": hop.flags,
        })).collect::<Vec<_>>(),
    })
}
