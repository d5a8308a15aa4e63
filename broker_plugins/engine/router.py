"""Who gets a message: subscriptions in a trie, shared ones in groups, one delivery a session [3.3.4]. Synchronous."""

from collections.abc import Callable, Iterator

from broker_plugins.engine.hooks import Rights
from broker_plugins.engine.message import Delivery, Message
from broker_plugins.engine.session import Granted, Session
from broker_plugins.engine.trie import FilterTrie

RightsOf = Callable[[Session], Rights | None]
"""What a session may do now; None: nothing."""

_SHARE = "$share/"


def split_share(topic_filter: str) -> tuple[str | None, str]:
    """(group, filter) of a shared subscription [4.8.2]; (None, filter) of any other."""
    if not topic_filter.startswith(_SHARE):
        return None, topic_filter
    group, separator, shared = topic_filter[len(_SHARE) :].partition("/")
    return (group, shared) if separator else (None, topic_filter)


class _Group:
    """Sessions that share a subscription: each message goes to one of them, in turns."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Session, Granted] = {}

    def choose(self, topic: str, rights_of: RightsOf) -> tuple[Session, Granted] | None:
        """The next one that may receive, one with a connection before one without; it then goes to the end."""
        waiting: Session | None = None
        for session, granted in list(self.members.items()):
            rights = rights_of(session)
            if rights is None or not rights.may_receive(topic) or not _still(rights, granted):
                continue
            if session.outlet is not None:
                return session, self._last(session)
            if waiting is None and session.kept:
                waiting = session
        return None if waiting is None else (waiting, self._last(waiting))

    def _last(self, session: Session) -> Granted:
        granted = self.members[session] = self.members.pop(session)
        return granted


class Router:
    """All subscriptions. `generation` changes whenever one comes or goes: what was cached before counts no more."""

    def __init__(self, rights_of: RightsOf) -> None:
        self._rights_of = rights_of
        self._trie: FilterTrie[Session | _Group, Granted | None] = FilterTrie()
        self._groups: dict[tuple[str, str], _Group] = {}
        self.generation = 0

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return len(self._trie) - len(self._groups) + sum(len(group.members) for group in self._groups.values())

    def subscribe(self, session: Session, granted: Granted) -> bool:
        """Add a subscription, or replace the session's one with the same filter [MQTT-3.8.4-3]. True when it is new."""
        topic_filter = granted.options.topic_filter
        new = topic_filter not in session.subscriptions
        session.subscriptions[topic_filter] = granted
        self.add(session, granted)
        return new

    def add(self, session: Session, granted: Granted) -> None:
        """Take a subscription that the session already has into account."""
        share, topic_filter = split_share(granted.options.topic_filter)
        if share is None:
            self._trie.put(topic_filter, session, granted)
        else:
            group = self._groups.get((share, topic_filter))
            if group is None:
                group = self._groups[share, topic_filter] = _Group()
                self._trie.put(topic_filter, group, None)
            group.members[session] = granted
        self.generation += 1

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Take a subscription away. False when there was none."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        share, shared = split_share(topic_filter)
        if share is None:
            self._trie.remove(topic_filter, session)
        else:
            group = self._groups[share, shared]
            del group.members[session]
            if not group.members:
                del self._groups[share, shared]
                self._trie.remove(shared, group)
        self.generation += 1
        return True

    def forget(self, session: Session) -> None:
        """Take all of a session's subscriptions away."""
        for topic_filter in list(session.subscriptions):
            self.unsubscribe(session, topic_filter)

    def wanted(self, topic: str) -> bool:
        """Whether any subscription matches."""
        return next(self._trie.match(topic), None) is not None

    def route(self, message: Message, named: int = 0) -> Iterator[tuple[Session, Delivery]]:
        """A delivery for each session that gets the message: once, with the highest QoS of the session's matching
        subscriptions, at most the message's own, and the identifiers of all of them [MQTT-3.3.4-2] [MQTT-3.8.4-8].
        Of the server's own topics so many levels may have to be `named`, or stood for with +.
        """
        found: dict[Session, list[Granted]] = {}
        topic = message.topic
        for key, value in self._trie.match(topic, named):
            if isinstance(key, _Group):
                chosen = key.choose(topic, self._rights_of)
                if chosen is not None:
                    yield chosen[0], _delivery(message, [chosen[1]])
            elif value is not None and not (value.options.no_local and message.sender == key.client_id):
                found.setdefault(key, []).append(value)  # no local: [MQTT-3.8.3-3]
        for session, matching in found.items():
            rights = self._rights_of(session)
            if rights is not None and rights.may_receive(topic):
                allowed = [granted for granted in matching if _still(rights, granted)]
                if allowed:
                    yield session, _delivery(message, allowed)


def _still(rights: Rights, granted: Granted) -> bool:
    """Whether what was granted once would be granted now."""
    return rights.may_subscribe(split_share(granted.options.topic_filter)[1])


def _delivery(message: Message, matching: list[Granted]) -> Delivery:
    return Delivery(
        message,
        min(message.qos, max(granted.options.qos for granted in matching)),
        # RETAIN goes on only where it was asked for [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        message.retain and any(granted.options.retain_as_published for granted in matching),
        tuple(granted.identifier for granted in matching if granted.identifier),
    )
