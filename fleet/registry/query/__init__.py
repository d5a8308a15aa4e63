"""Fleet queries: `type:pump AND attributes.fw<"1.4.0" AND connected:true AND NOT tag:lab AND last_seen<now-2h`."""

from fleet.registry.query.model import Query, QueryError
from fleet.registry.query.parser import parse
from fleet.registry.query.versions import sort_key

__all__ = ["Query", "QueryError", "parse", "sort_key"]
