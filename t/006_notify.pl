# What a second session hears, byte for byte: reference, event, truncated event, summary,
# deletion.
#
# Catches: any change of a payload that clients parse, an escape that is not JSON's, a
# payload that NOTIFY refuses (then the command would fail), data in a reference.

use strict;
use warnings;
use utf8;

use FindBin;
use lib $FindBin::Bin;
use Encode qw(decode_utf8 encode_utf8);
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('notify', conf => "max_prepared_transactions = 2\n");
my ($i1, $i2, $i3) = (id(1), id(2), id(3));
my ($u1, $u2, $u3) = map { s/'//gr } ($i1, $i2, $i3);

sub sql { return decode_utf8($node->safe_psql('postgres', encode_utf8($_[0]))) }

sql('CREATE EXTENSION esrs');
sql("SELECT esrs_register_aggregate('book', notify => 'commit'),
            esrs_register_aggregate('film', notify => 'commit', notify_payload => 'event', event_version => 3)");

my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN book_events; LISTEN film_events');

# The notifications that have come, as "CHANNEL PAYLOAD".
sub heard
{
	my $output = decode_utf8($listener->query_safe('SELECT 1'));
	my @heard;

	push @heard, "$1 $2"
	  while $output =~
	  /^Asynchronous notification "([^"]*)" with payload "(.*)" received from server process with PID \d+\.$/mg;
	return \@heard;
}

# persist(AGGREGATE, ID, EVENT ID, EVENT)
sub persist
{
	my ($aggregate, $id, $event_id, $event) = @_;

	return sql("SELECT position FROM esrs_persist('$aggregate', $id, ARRAY[\$e\$$event\$e\$]::jsonb[], event_ids => ARRAY['$event_id'::uuid])");
}

my $e = '0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f';
my $p = persist('book', $i1, $e, '{"Secret": "x"}');
is_deeply(
	heard(),
	[ "book_events {\"aggregate\":\"book\",\"id\":\"$e\",\"aggregate_id\":\"$u1\",\"sequence_number\":1,\"position\":$p}" ],
	'a reference');

# the whole event: the bus message, and the position behind it
my $text = 'Ä \"q\" \\\\ / \u0001 \n 日本 😀';
$p = persist('film', $i1, $e, "{\"Said\": {\"text\": \"$text\", \"n\": 12345678901234567890.10}}");
my $message = sql("SELECT esrs_event_json(e) FROM esrs_events('film', $i1) AS e");
my $heard = heard();
is_deeply(
	$heard,
	[ 'film_events ' . ($message =~ s/\}$/,"position":$p}/r) ],
	'an event: its bus message and its position');
like(
	$heard->[0],
	qr/^film_events \{"id":"$e","aggregate_id":"$u1","payload":\{"Said":\{"n":12345678901234567890\.10,"text":"Ä \\"q\\" \\\\ \/ \\u0001 \\n 日本 😀"\}\},"occurred_on":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z","sequence_number":1,"version":3,"position":$p\}$/,
	'in this form');

# a unit variant
$p = persist('film', $i1, $e, '"Closed"');
like(heard()->[0], qr/"payload":"Closed","occurred_on":"[^"]+","sequence_number":2,"version":3,"position":$p\}$/,
	'an event that is a string');

# short and long
my $around = length(sql("SELECT esrs_event_json(e) FROM esrs_events('film', $i1, 2) AS e")) - length('"Closed"');
for my $length (1000, 20000)
{
	my $n = $length - $around - 2;
	$p = persist('film', $i2, $e, '"' . ('x' x $n) . '"');
	my ($number) = sql("SELECT max(sequence_number) FROM film_events WHERE aggregate_id = $i2");
	my $got = heard();
	is(scalar(@$got), 1, "$length bytes: one notification");
	if ($length < 7000)
	{
		like($got->[0], qr/"payload":"x{$n}"/, "$length bytes: the event");
	}
	else
	{
		is($got->[0],
			"film_events {\"aggregate\":\"film\",\"id\":\"$e\",\"aggregate_id\":\"$u2\",\"sequence_number\":$number,\"position\":$p,\"truncated\":true}",
			"$length bytes: a reference, marked as truncated");
	}
}

# around the limit no length makes the command fail or the payload disappear
my ($whole, $cut) = (0, 0);
for my $n (7690, 7700, 7710, 7720, 7730, 7740, 7790, 7799, 7800, 7890, 7900, 7999, 8000)
{
	persist('film', $i2, $e, '"' . ('x' x $n) . '"');
	my $got = heard();
	is(scalar(@$got), 1, "payload of $n characters: one notification");
	if ($got->[0] =~ /"truncated":true\}$/) { $cut++ }
	elsif ($got->[0] =~ /"payload":"x{$n}"/) { $whole++ }
}
cmp_ok($whole, '>', 0, 'some fit');
is($whole + $cut, 13, 'and the others are marked');

# characters count as bytes
$p = persist('film', $i2, $e, '"' . ('日' x 3000) . '"');
like(heard()->[0], qr/"truncated":true\}$/, '3000 characters of three bytes do not fit');

# a summary
my ($from, $to) = split /\|/, sql("SELECT min(position), max(position) FROM esrs_persist('book', $i2,
    (SELECT array_agg(to_jsonb('n' || i)) FROM generate_series(1, 101) AS i))");
is_deeply(heard(), ["book_events {\"aggregate\":\"book\",\"from\":$from,\"to\":$to,\"count\":101}"], 'a summary of 101');
sql("SELECT count(*) FROM esrs_persist('book', $i2, (SELECT array_agg(to_jsonb('n' || i)) FROM generate_series(1, 100) AS i))");
is(scalar(@{ heard() }), 100, 'but 100 one by one');

# a deletion, of a kind that has whole events, too
sql("SELECT esrs_delete('film', $i1)");
$p = sql("SELECT position FROM esrs_feed(ARRAY['film'], max => 100000) WHERE id IS NULL");
is_deeply(
	heard(),
	[ "film_events {\"aggregate\":\"film\",\"aggregate_id\":\"$u1\",\"deleted\":true,\"position\":$p}" ],
	'a deletion');

# the setting, where the aggregate has none of its own
sql("LOAD 'esrs'; ALTER SYSTEM SET esrs.notify_payload = event");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('esrs.notify_payload', true) = 'event'") or die;
sql("SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"A\"']::jsonb[])");
like(heard()->[0], qr/^book_events \{"id":"[^"]+","aggregate_id":"$u1","payload":"A","occurred_on"/, 'the setting makes book tell events');
sql("LOAD 'esrs'; ALTER SYSTEM RESET esrs.notify_payload");
$node->reload;
$node->poll_query_until('postgres', "SELECT current_setting('esrs.notify_payload', true) IS DISTINCT FROM 'event'") or die;
sql("SELECT count(*) FROM esrs_persist('film', $i1, ARRAY['\"A\"']::jsonb[])");
like(heard()->[0], qr/^film_events \{"id":"[^"]+","aggregate_id":"$u1","payload":"A","occurred_on"/, 'film has an option, which wins');

# renamed, the table keeps its channel
sql("ALTER TABLE book_events RENAME TO tome_events");
sql("SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"A\"']::jsonb[])");
like(heard()->[0], qr/^book_events \{"aggregate":"book"/, 'the channel bears the name of the aggregate, not of the table');

# The worker tells, as it does by default: in order of position, the same bytes, each
# event once, nothing that was rolled back, and a summary beyond a hundred at once.
sub heard_of
{
	my ($n) = @_;
	my @heard;

	for my $try (1 .. 300)
	{
		push @heard, @{ heard() };
		last if @heard >= $n;
		select(undef, undef, undef, 0.05);
	}
	select(undef, undef, undef, 0.3);    # nothing more may come
	push @heard, @{ heard() };
	return \@heard;
}
sql("SELECT esrs_alter_aggregate(name, '{\"notify\": null}') FROM unnest('{book,film}'::text[]) AS name");
$p = sql("SELECT position FROM esrs_persist('book', $i3, ARRAY['\"A\"', '\"B\"']::jsonb[], event_ids => ARRAY['$e'::uuid, gen_random_uuid()]) LIMIT 1");
$heard = heard_of(2);
is(scalar @$heard, 2, 'worker: two events, two notifications');
is($heard->[0], "book_events {\"aggregate\":\"book\",\"id\":\"$e\",\"aggregate_id\":\"$u3\",\"sequence_number\":1,\"position\":$p}",
	'worker: a reference');
like($heard->[1], qr/"sequence_number":2,"position":@{[ $p + 1 ]}\}$/, 'worker: the next one, after it');
$p = persist('film', $i3, $e, '"Closed"');
$message = sql("SELECT esrs_event_json(e) FROM esrs_events('film', $i3) AS e");
is_deeply(heard_of(1), [ 'film_events ' . ($message =~ s/\}$/,"position":$p}/r) ], 'worker: a whole event');
sql("SELECT esrs_delete('film', $i3)");
like(heard_of(1)->[0], qr/^film_events \{"aggregate":"film","aggregate_id":"$u3","deleted":true,"position":\d+\}$/, 'worker: a deletion');
sql("BEGIN; SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"rolled back\"']::jsonb[]); ROLLBACK;
     SELECT count(*) FROM esrs_persist('book', $i1, (SELECT array_agg('\"many\"'::jsonb) FROM generate_series(1, 101)))");
$heard = heard_of(1);
is(scalar @$heard, 1, 'worker: one summary');
like($heard->[0], qr/^book_events \{"aggregate":"book","from":\d+,"to":\d+,"count":101\}$/, 'worker: of all that was committed');
# a foreign writer, who knows nothing of esrs but the table
sql("INSERT INTO tome_events (id, aggregate_id, payload, sequence_number) VALUES ('$e', gen_random_uuid(), '\"foreign\"', 1)");
like(heard_of(1)->[0], qr/^book_events \{"aggregate":"book","id":"$e"/, 'worker: also of a plain INSERT');
# a prepared transaction is told once it is committed
if (sql("SELECT current_setting('max_prepared_transactions')::int > 0") eq 't')
{
	sql("BEGIN; SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"prepared\"']::jsonb[]); PREPARE TRANSACTION 'p'");
	is_deeply(heard_of(0), [], 'worker: nothing of a prepared transaction');
	sql("COMMIT PREPARED 'p'");
	is(scalar @{ heard_of(1) }, 1, 'worker: until it is committed');
}
# the worker ends and comes back: nothing twice, nothing lost
sql('SELECT esrs_stop_workers()');
sql("SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"after\"']::jsonb[])");
is(scalar @{ heard_of(1) }, 1, 'worker: another one goes on where it was');
# handed over from one to the other: each event once
sql("SELECT esrs_alter_aggregate('book', '{\"notify\": \"commit\"}')");
sql("SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"told\"']::jsonb[])");
sql("SELECT esrs_alter_aggregate('book', '{\"notify\": \"worker\"}')");
sql("SELECT count(*) FROM esrs_persist('book', $i1, ARRAY['\"told too\"']::jsonb[])");
is(scalar @{ heard_of(2) }, 2, 'handed over: each event once');

# ---------------------------------------------------------------------------
# told again, because a rebuild is asked to: the same messages
# ---------------------------------------------------------------------------

sql(<<'SQL');
CREATE TABLE told (id uuid, payload jsonb);
CREATE FUNCTION tell(e esrs_event) RETURNS void BEGIN ATOMIC INSERT INTO told VALUES (e.aggregate_id, e.payload); END;
CREATE FUNCTION forget(i uuid) RETURNS void BEGIN ATOMIC DELETE FROM told WHERE id = i; END;
CREATE FUNCTION newer(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT CASE WHEN payload ? 'Old' THEN '{"New": true}'::jsonb ELSE payload END $$;
SELECT esrs_register_aggregate('play', notify_payload => 'event');
SELECT count(*) FROM esrs_persist('play', gen_random_uuid(), ARRAY['{"Old": 1}', '"b"']::jsonb[]);
SELECT count(*) FROM esrs_persist('play', gen_random_uuid(), ARRAY[to_jsonb(repeat('x', 20000))]::jsonb[]);
SELECT esrs_alter_aggregate('play', '{"upcast": "newer(jsonb,int)"}');
SELECT esrs_register_handler('told', '{play}', 'tell(esrs_event)', delete_handler => 'forget(uuid)');
SQL
$listener->query_safe('LISTEN play_events');
heard_of(0);
my @messages = map { 'play_events ' . $_ } split /\n/, sql(<<'SQL');
SELECT CASE WHEN length(m) > 7000 THEN format('{"aggregate":"play","id":"%s","aggregate_id":"%s","sequence_number":1,"position":%s,"truncated":true}', (e).id, (e).aggregate_id, (e).position)
       ELSE left(m, -1) || format(',"position":%s}', (e).position) END
  FROM (SELECT e, esrs_event_json(e) AS m FROM esrs_feed('{play}') AS f, esrs_events('play', f.aggregate_id) AS e WHERE e.id = f.id) AS x ORDER BY (e).position
SQL
is(scalar @messages, 3, 'three events');
like($messages[0], qr/"payload":\{"New":true\}/, 'the first in its present form');
for my $how ('', ", strategy => 'swap', tables => '{told}'", ", strategy => 'per_aggregate'", ", strategy => 'per_aggregate', workers => 2")
{
	sql("SET client_min_messages = warning; CALL esrs_rebuild('told'$how)");
	is_deeply(heard_of(0), [], "rebuild$how: nobody has asked");
	sql("SET client_min_messages = warning; CALL esrs_rebuild('told'$how, republish => true)");
	is_deeply([ sort @{ heard_of(3) } ], [ sort @messages ], "rebuild$how: each event once more");
}
is(sql("SELECT count(*) FROM told WHERE payload = '{\"New\": true}'"), '1', 'and the read model is there');

$listener->quit;
$node->stop;
done_testing();
