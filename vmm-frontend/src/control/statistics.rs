//! What KVM counts, as QEMU tells it (qapi/stats.json).

use serde::Deserialize;
use serde_json::{Value, json};
use vhost_runtime::control::ControlError;

use super::processors;
use crate::machine::stats::{Kind, Statistic, Statistics, StatsError, Unit};
use crate::vmm::Machine;

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Vm,
    Vcpu,
}

/// Who counts: only KVM does.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Provider {
    Kvm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    target: Target,
    /// Of these processors.
    vcpus: Option<Vec<String>>,
    providers: Option<Vec<Request>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[expect(dead_code, reason = "there is one alone; reading it refuses others")]
    provider: Provider,
    /// With these names.
    names: Option<Vec<String>>,
}

impl Query {
    /// Whether a statistic is asked for.
    fn wants(&self, name: &str) -> bool {
        let Some(requests) = &self.providers else { return true };
        requests.iter().any(|request| match &request.names {
            None => true,
            Some(names) => names.iter().any(|wanted| wanted == name),
        })
    }

    /// Those of one file that are asked for.
    fn read(&self, statistics: &Statistics) -> Result<Vec<Value>, StatsError> {
        let all = statistics.read()?;
        Ok(all.iter().filter(|one| self.wants(&one.name)).map(value).collect())
    }
}

pub(super) fn query(machine: &Machine, query: Query) -> Result<Value, ControlError> {
    let counters = machine.counters().map_err(ControlError::failed)?;
    if query.target == Target::Vm {
        if query.vcpus.is_some() {
            return Err(ControlError::Unexpected(String::from("vcpus")));
        }
        let stats = query.read(&counters.vm).map_err(ControlError::failed)?;
        return Ok(match stats.is_empty() {
            true => json!([]),
            false => json!([{ "provider": "kvm", "stats": stats }]),
        });
    }
    let mut answer = Vec::new();
    for (number, statistics) in counters.vcpus.iter().enumerate() {
        let path = processors::path(number);
        if query.vcpus.as_ref().is_some_and(|wanted| !wanted.contains(&path)) {
            continue;
        }
        let stats = query.read(statistics).map_err(ControlError::failed)?;
        if !stats.is_empty() {
            answer.push(json!({ "provider": "kvm", "qom-path": path, "stats": stats }));
        }
    }
    Ok(answer.into())
}

fn value(statistic: &Statistic) -> Value {
    let value = match statistic.values.as_slice() {
        [one] if statistic.unit == Unit::Boolean => json!(*one != 0),
        [one] => json!(one),
        several => json!(several),
    };
    json!({ "name": statistic.name, "value": value })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schemas {
    #[serde(default, rename = "provider")]
    _provider: Option<Provider>,
}

pub(super) fn schemas(machine: &Machine, _wanted: Schemas) -> Result<Value, ControlError> {
    let counters = machine.counters().map_err(ControlError::failed)?;
    // All processors have the same.
    let targets = [("vm", Some(&counters.vm)), ("vcpu", counters.vcpus.first())];
    let mut answer = Vec::new();
    for (target, statistics) in targets {
        let Some(statistics) = statistics else { continue };
        let all = statistics.read().map_err(ControlError::failed)?;
        let stats: Vec<Value> = all.iter().map(schema).collect();
        answer.push(json!({ "provider": "kvm", "target": target, "stats": stats }));
    }
    Ok(answer.into())
}

fn schema(statistic: &Statistic) -> Value {
    let kind = match statistic.kind {
        Kind::Cumulative => "cumulative",
        Kind::Instant => "instant",
        Kind::Peak => "peak",
        Kind::LinearHistogram => "linear-histogram",
        Kind::LogHistogram => "log2-histogram",
    };
    let unit = match statistic.unit {
        Unit::None => None,
        Unit::Bytes => Some("bytes"),
        Unit::Seconds => Some("seconds"),
        Unit::Cycles => Some("cycles"),
        Unit::Boolean => Some("boolean"),
    };
    let exponent = statistic.exponent;
    let base = (exponent != 0).then_some(statistic.base);
    let buckets = statistic.kind == Kind::LinearHistogram;
    let buckets = buckets.then_some(statistic.bucket_size);
    let mut schema = json!({ "name": statistic.name, "type": kind, "exponent": exponent });
    if let Some(members) = schema.as_object_mut() {
        let more = [("unit", json!(unit)), ("base", json!(base)), ("bucket-size", json!(buckets))];
        let more = more.into_iter().filter(|(_, value)| !value.is_null());
        members.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistic(kind: Kind, unit: Unit, exponent: i16, values: &[u64]) -> Statistic {
        let values = values.to_vec();
        Statistic { name: "x".into(), kind, unit, base: 10, exponent, bucket_size: 4, values }
    }

    #[test]
    fn values_and_schemas_are_as_qemu_writes_them() {
        let count = statistic(Kind::Cumulative, Unit::None, 0, &[7]);
        assert_eq!(value(&count), json!({ "name": "x", "value": 7 }));
        let expected = json!({ "name": "x", "type": "cumulative", "exponent": 0 });
        assert_eq!(schema(&count), expected);
        let flag = statistic(Kind::Instant, Unit::Boolean, 0, &[1]);
        assert_eq!(value(&flag)["value"], true);
        let times = statistic(Kind::LinearHistogram, Unit::Seconds, -9, &[1, 2]);
        assert_eq!(value(&times)["value"], json!([1, 2]));
        let expected = json!({
            "name": "x", "type": "linear-histogram", "exponent": -9, "base": 10,
            "unit": "seconds", "bucket-size": 4,
        });
        assert_eq!(schema(&times), expected);
    }

    #[test]
    fn names_select() {
        let query = |text: &str| serde_json::from_str::<Query>(text);
        let exits = r#"{"target":"vcpu","providers":[{"provider":"kvm","names":["exits"]}]}"#;
        let exits = query(exits).ok().unwrap();
        assert_eq!((exits.wants("exits"), exits.wants("io_exits")), (true, false));
        assert!(query(r#"{"target":"vm"}"#).ok().unwrap().wants("any"));
        assert!(query(r#"{"target":"vm","providers":[{"provider":"kvm"}]}"#).unwrap().wants("any"));
        for wrong in [
            "{}",
            r#"{"target":"host"}"#,
            r#"{"target":"vm","providers":[{"provider":"cryptodev"}]}"#,
        ] {
            assert!(query(wrong).is_err(), "{wrong}");
        }
    }
}
