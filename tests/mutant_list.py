"""The mutants of `make mutants`, by the rule that they break. See `tests/mutants.py`."""

from typing import Final

from tests.mutants import Mutant

RULES = "tests/test_held_rules.py"
STATE = "tests/test_held_rules.py tests/test_state.py"
SCHEDULE = f"{RULES} " + " ".join(
    f"tests/test_schedule.py::{name}"
    for name in (
        "test_the_width_follows_what_came",
        "test_the_width_stays_between_a_second_and_the_setting",
        "test_a_cursor_stops_an_overlap_behind_now",
        "test_the_servers_date_bounds_what_is_covered",
        "test_a_new_re_read_begins_one_and_a_half_ages_ago",
        "test_a_re_read_begins_behind_what_was_read_at_its_age",
        "test_a_restart_reads_at_once",
        "test_catching_up_reads_nothing_twice",
        "test_live_goes_first",
        "test_a_quiet_day_costs_what_the_quota_allows",
        "test_clock_steps_do_not_stop_polling",
        "test_every_row_is_asked_for_when_it_is_visible",
    )
)
PARKING = f"{RULES} " + " ".join(
    f"tests/test_parking.py::{name}"
    for name in (
        "test_gaps_are_a_set_of_seconds",
        "test_failed_twice_another_answers_failed_again",
        "test_an_answer_to_itself_acquits",
        "test_while_probes_fail_it_takes_turns_and_is_never_guilty",
        "test_what_is_not_its_own_makes_proof_stale",
        "test_another_window_begins_from_nothing",
        "test_near_a_gap_nothing_is_forgotten_and_elsewhere_as_before",
    )
)
REPAIR = PARKING
TRIES = " ".join(
    f"tests/test_backfill.py::{name}"
    for name in (
        "test_a_window_that_fails_is_told_and_read_later",
        "test_failures_in_a_row_do_not_use_up_the_day",
        "test_an_api_that_answers_again_brings_the_next_request_forward",
        "test_history_goes_on_soon_after_the_report_answers_again",
    )
)
LEDGER = "tests/test_ledger.py tests/test_held_rules.py"
UPSTREAM = "tests/test_upstream.py tests/test_held_rules.py"
ROWS = "tests/test_rows.py"
EVENTS = "tests/test_held_rules.py tests/test_events.py tests/test_wire.py"
ZONE = "tests/test_held_rules.py tests/test_request_limits.py tests/test_zone.py"
QUOTA = f"{RULES} tests/test_quota.py::test_who_is_held_back_and_when_it_is_asked_again"
RETRY = "tests/test_retry.py"
SILENCE = "tests/test_silence.py tests/test_held_rules.py"
CLOCK = "tests/test_held_rules.py tests/test_zones_and_clocks.py"
BACKFILL = f"{RULES} " + " ".join(
    f"tests/test_backfill.py::{name}"
    for name in (
        "test_an_order_obeyed_twice_changes_nothing",
        "test_what_has_ended_stays_ended_and_goes_with_its_order",
        "test_only_one_publishes_again_at_a_time",
        "test_orders_are_removed_before_their_ends_are_forgotten",
        "test_one_that_follows_a_cancelled_one_begins_anew",
        "test_history_waits_for_everything_else_and_for_its_share_of_the_quota",
        "test_the_journal_of_a_range_stays_until_the_backfill_has_ended",
        "test_a_window_that_fails_is_told_and_read_later",
        "test_an_answer_that_takes_a_poll_starves_neither_history_nor_re_reads",
    )
)
LETTERS = "tests/test_dead_letters.py"
LOOKS = "tests/test_looks.py"
CONTRACT = "tests/test_log_contract.py"
KAFKA = "tests/test_log_contract.py tests/test_kafka.py"


def _of(file: str, tests: str, *lines: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, right, wrong, tests) for right, wrong in lines]


def _kafka(file: str, tests: str, *lines: tuple[str, str]) -> list[Mutant]:
    return [Mutant(file, right, wrong, tests, kafka=True) for right, wrong in lines]


MUTANTS: Final = [
    *_of(
        "publisher/pipeline.py",
        f"{RULES} {LOOKS} tests/test_zones_and_clocks.py::"
        "test_a_clock_that_is_put_right_while_the_first_request_is_on_its_way",
        ("now - step.pass_.delay)\n", "now)\n"),
        ("now = min(\n        sent_at, responses.server_time(answer)",
         "now = max(\n        sent_at, responses.server_time(answer)"),
        ("covered_until = min(step.window.end,", "covered_until = max(step.window.end,"),
        (
            "    commit_seconds = await commit(context, publication.batch)\n"
            "    # 4. Update the memory.\n"
            "    loop_state.server.saw(publication.occurred)\n"
            "    state.apply(publication.successor, context.settings.horizon)\n",
            "    state.apply(publication.successor, context.settings.horizon)\n"
            "    commit_seconds = await commit(context, publication.batch)\n",
        ),
        ("        await end_look(loop_state)\n", "        pass\n"),
        ("await ask_quota(context, loop_state, (until - now).total_seconds())",
         "await ask_quota(context, loop_state, 1e6)"),
    ),
    *_of(
        "publisher/commit.py",
        RULES,
        (
            "    await commit(context, Batch(context.operation, follows, sequence,"
            " successor.records))\n"
            "    state.apply(successor, context.settings.horizon)\n",
            "    state.apply(successor, context.settings.horizon)\n"
            "    await commit(context, Batch(context.operation, follows, sequence,"
            " successor.records))\n",
        ),
    ),
    *_of(
        "publisher/backfill_requests.py",
        LOOKS,
        ("or not checkpoint.sequence:", "or False:"),
        ("    if not loop_state.look.done():\n        return\n",
         "    await asyncio.wait([loop_state.look])\n"),
        ("        loop_state.look_again = context.clock.elapsed() + LOOK_AGAIN\n", ""),
        ("        loop_state.look.cancel()\n", ""),
        ("if not loop_state.commands_unreadable:", "if loop_state.commands_unreadable:"),
    ),
    *_of(
        "publisher/fetch.py",
        LOOKS,
        ("        question.cancel()\n", ""),
        ("max(spare_seconds, QUOTA_LIMIT)", "max(spare_seconds, 60.0)"),
    ),
    *_of(
        "publisher/events/publication.py",
        f"{RULES} {STATE}",
        ("gaps = removed(gaps, entry.start, entry.end)",
         "gaps = removed(gaps, entry.start, step.window.end)"),
        ("end=max(step.window.start, covered_until),", "end=step.window.end,"),
        ("        read_at=now,\n", "        read_at=answer.received_at,\n"),
        ("new=content.screen.count,", "new=content.rows,"),
        ("follows=state.checkpoint.sequence,", "follows=entry.sequence,"),
    ),
    *_of(
        "publisher/schedule/passes.py",
        SCHEDULE,
        ("target = now - pass_.delay\n", "target = now\n"),
        ("min(position + pace.width, target)", "position + pace.width"),
        ("ends_round=end == target)", "ends_round=True)"),
        ("self.width = max(window.width / 2, NARROWEST)", "self.width = window.width / 2"),
        ("self.width = min(self.width * 2, self.widest)", "self.width = self.width * 2"),
        ("settled = min(covered_until, now - step.pass_.settle)", "settled = covered_until"),
        ("cursor=max(old.cursor, cursor),", "cursor=cursor,"),
        ("covered_until=max(old.covered_until, covered_until),", "covered_until=covered_until,"),
        ("covered_until - pass_.delay * 1.5)", "covered_until)"),
        ("joins = step.window.start <= beyond(gaps, old.cursor)", "joins = True"),
        ("elif rows * 2 <= TARGET_ROWS and took <= QUICK and", "elif rows * 2 <= TARGET_ROWS and"),
        ("        if rows > TARGET_ROWS:\n", "        if rows < 0:\n"),
        ("self.positions, self.passed = {LIVE: live_cursor}, {}",
         "self.positions, self.passed = {}, {}"),
        ("if quota_low and pass_.delay else pass_.cadence", "if False else pass_.cadence"),
        ("return max(min(due, read_at + cadence), read_at + min(cadence, SECOND))", "return due"),
        ("for age in settings.rereads if age > settings.overlap", "for age in settings.rereads"),
    ),
    *_of(
        "publisher/state/gaps.py",
        REPAIR,
        ("if gap.start <= window.end and window.start <= gap.end]",
         "if gap.start < window.end and window.start < gap.end]"),
        ("(max(gap.start, end), gap.end)", "(gap.start, gap.end)"),
        ("(gap.start, min(gap.end, start))", "(gap.start, start)"),
        ("if gap.start <= instant < gap.end)", "if gap.start < instant < gap.end)"),
        ("return any(start < gap.end + distance and", "return any(start < gap.end and"),
        ("and gap.start - distance < end for", "and gap.start < end for"),
        ("*(gap.start for gap in gaps if gap.start > start)", ""),
    ),
    *_of(
        "publisher/schedule/failing_window.py",
        PARKING,
        ("self.proven = self.others_answer", "self.proven = True"),
        ("elif self.attempts >= 2:", "elif self.attempts >= 1:"),
        ("            self.others_answer = False  # what was proven may have changed\n", ""),
        ("self.attempts >= 2 and self.attempts % 2 == 0 and not", "self.attempts >= 2 and not"),
        ("            self.attempts, self.others_answer = 0, False\n", "            pass\n"),
        ("gaps = added(state.checkpoint.gaps, step.window)", "gaps = state.checkpoint.gaps"),
    ),
    *_of(
        "publisher/schedule/retry.py",
        RETRY,
        ("growth = 2.0 ** min(attempt - 1, 30)", "growth = 1.0"),
        ("longest_seconds = 2 * poll_seconds", "longest_seconds = 20 * poll_seconds"),
        ("        first_seconds = poll_seconds / 2\n",
         "        first_seconds = poll_seconds * 2\n"),
        ("spread, asked_seconds or 0.0)", "spread, 0.0)"),
    ),
    *_of(
        "publisher/state/ledger.py",
        LEDGER,
        ("bucket.since = min(bucket.since, window_start)", "bucket.since = window_start"),
        ("bucket.keep_until = max(bucket.keep_until, window_end)",
         "bucket.keep_until = window_end"),
        ("if bucket.keep_until < before and not", "if bucket.keep_until <= before and not"),
        ("bucket.keep_until < before and not spared(bucket.since, bucket.keep_until)",
         "bucket.keep_until < before"),
        ("                bucket.index.update(new)\n", ""),
        ("(place := bisect_left(run, id_)) < len(run) and run[place] == id_",
         "(place := bisect_left(run, id_)) < len(run)"),
    ),
    *_of(
        "publisher/state/state.py",
        STATE,
        ("forgotten=forgotten_with(self.checkpoint.forgotten, old),",
         "forgotten=self.checkpoint.forgotten,"),
        ("+ len(parts) - len(tombstones)", "+ 1 - len(old)"),
        ("for part in range(gone.parts)", "for part in range(1)"),
        ("if len(records) < checkpoint.journal_records:", "if False:"),
        ("until = min(entry.end, entry.read_at - age)", "until = entry.end"),
        ("if entry.start <= instant < until:", "if entry.start < instant < until:"),
        ("collected, min(since, entry.start), max(until, entry.end)", "collected, since, until"),
        ("skew < -RESOLUTION:", "skew > RESOLUTION:"),
    ),
    *_of(
        "publisher/state/checkpoint.py",
        STATE,
        (
            "not isinstance(fields, dict) or format_ != FORMAT:",
            "not isinstance(fields, dict):",
        ),
    ),
    *_of(
        "publisher/wolkvox/responses.py",
        UPSTREAM,
        ("if 300 <= answer.status < 400:", "if 300 < answer.status < 400:"),
        ("return min(max(seconds, 0.0), LONGEST_RETRY_AFTER.total_seconds())",
         "return max(seconds, 0.0)"),
        ("        return http\n", "        return 200\n"),
        ('                if fields.get("data"):\n', "                if False:\n"),
        ('(_http_date(headers.get("date")) or now)', "now"),
    ),
    *_of(
        "publisher/wolkvox/request.py",
        "tests/test_request_limits.py tests/test_zone.py",
        ("return min(PADDING, max(window.width, SECOND))", "return min(PADDING, window.width)"),
    ),
    *_of(
        "publisher/events/rows.py",
        ROWS,
        ("equal[row[4].position, row[1]].append(place)", "equal[0, row[1]].append(place)"),
        ("places.sort(key=lambda place: canonical(sent_fields(rows[place][3])))", "pass"),
        ('            or "\\0" in text\n', ""),
    ),
    *_of(
        "publisher/events/identity.py",
        f"{RULES} {ROWS}",
        ('return text.replace("\\0", "\\ufffd")', "return text"),
        ("return text_of(message.customer_id), _phone(", 'return "", _phone('),
        ("if name not in SIGNED_WITH and not", "if not"),
    ),
    *_of(
        "publisher/events/format_change.py",
        ROWS,
        ("        bad += entry.rows - entry.new - entry.duplicate\n", ""),
    ),
    *_of(
        "publisher/events/deduplicate.py",
        "tests/test_screening.py tests/test_rows.py",
        ("self._ledger.published_ids(hour, hour_ids) | shown.intersection(hour_ids)",
         "self._ledger.published_ids(hour, hour_ids)"),
        ("            if id_ not in old:\n", "            if True:\n"),
    ),
    *_of(
        "publisher/events/identity.py",
        "tests/test_screening.py tests/test_republish.py",
        ("stranger.known_by - beside", "stranger.known_by"),
    ),
    *_of(
        "publisher/commands/dead_letters/replay_batch.py",
        "tests/test_replay.py",
        (" or collected.knows_otherwise(row, stranger)", ""),
    ),
    *_of(
        "publisher/events/encode.py",
        EVENTS,
        ("            if size <= room:\n", "            if size <= room + 100:\n"),
        ("                self.unpublished.add(digest)\n", "                pass\n"),
        ("for date in sorted(self._seconds)", "for date in list(self._seconds)"),
        ("                message.extra = extra\n", ""),
    ),
    *_of(
        "publisher/events/kafka_record.py",
        EVENTS,
        ("if total > limit and count:", "if total > 2 * limit and count:"),
        ("return (value >> 1) ^ -(value & 1), at", "return value >> 1, at"),
        ("        count += 1\n", "        count += 1 + (count == 5000)\n"),
    ),
    *_of(
        "publisher/wolkvox/timezone.py",
        ZONE,
        ("first = min(first, repeated[0] - padding)", "first = min(first, repeated[0])"),
        ("last = max(last, repeated[1] + padding)", "last = max(last, repeated[1])"),
        ("start = _floor(window.start - padding)", "start = _ceil(window.start - padding)"),
        ("end = min(_ceil(window.end + padding), latest)", "end = min(_ceil(window.end), latest)"),
        ("end = min(_ceil(window.end + padding), latest)", "end = _ceil(window.end + padding)"),
    ),
    *_of(
        "publisher/schedule/quota.py",
        QUOTA,
        ("self.answered_at, self.own_count = now, 0", "self.answered_at = now"),
        ("now - self.answered_at > DAY", "now - self.answered_at > DAY * 9"),
        ("reserve = min(DAY / self.poll_every, self.limit / 2)", "reserve = DAY / self.poll_every"),
        ("        self.own_count += 1\n", ""),
        ("polls = SCARCE_POLLS if self.holds_back(now) else EVERY_POLLS", "polls = EVERY_POLLS"),
    ),
    *_of(
        "publisher/schedule/silence.py",
        SILENCE,
        ("return max(poll_every * SILENT_POLLS, NIGHT)", "return poll_every * SILENT_POLLS"),
        ("for window in clear_of(forgotten, [Window(entry.start, entry.end)]):",
         "for window in [Window(entry.start, entry.end)]:"),
        ("lambda entry: not entry.rows or entry.pass_name == REPLAY",
         "lambda entry: not entry.rows"),
    ),
    *_of(
        "publisher/wolkvox/server_clock.py",
        CLOCK,
        ("return our_now + min(self.skew, *self.earlier_skews)", "return our_now + self.skew"),
        ("        if measured_skew > LARGEST:\n", "        if measured_skew > LARGEST * 100:\n"),
        ("self.skew = max(self.skew, measured_skew) if close else measured_skew",
         "self.skew = measured_skew"),
    ),
    *_of(
        "publisher/schedule/backfill_pass.py",
        BACKFILL,
        ("cursor = min(max(running.cursor, covered_until), running.end)", "cursor = covered_until"),
        (
            "if request.id not in ids and not busy:",
            "if request.id not in ids:",
        ),
        ("        if backfill.active or backfill.id in wanted\n", "        if backfill.active\n"),
        ("        if backfill.active and backfill.id in", "        if backfill.id in"),
        ("return ended[:-KEPT]", "return ended"),
    ),
    *_of(
        "publisher/schedule/attempts.py",
        TRIES,
        ("kept = 0 if self.hurried else 1", "kept = 1"),
        ("kept = 0 if self.hurried else 1", "kept = 0"),
        ("self.due_at, self.hurried = now + self.pause, False", "self.hurried = False"),
    ),
    *_of(
        "publisher/context.py",
        BACKFILL,
        ("        if others_turn and not live_first:", "        if False:"),
    ),
    *_of(
        "publisher/events/dead_letter.py",
        LETTERS,
        ("return self.row_identity or self.digest", "return self.digest"),
        ("letters.append(DeadLetter(reject.reason, place, body[first:last], context))",
         "letters.append(DeadLetter(reject.reason, place, body[first:last]))"),
    ),
    *_kafka(
        "publisher/kafka/shard.py",
        CONTRACT,
        ("if self._sequences.get(batch.operation) != batch.follows:", "if False:"),
        ("            self._sequences[batch.operation] = batch.sequence\n", "            pass\n"),
        ('return self._owner_in(live) not in ("", expected, self._instance)', "return False"),
    ),
    *_kafka(
        "publisher/kafka/reader.py",
        KAFKA,
        ("                    live.pop(record.key, None)\n", "                    pass\n"),
        ("while position < end or consumer.highwater(partition) is None:",
         "while position < end - 1 or consumer.highwater(partition) is None:"),
    ),
]  # fmt: skip
