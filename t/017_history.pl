# esrs_verify, esrs_diff, esrs_states and the rebuild of snapshots go through a long history
# with the memory of a short one, tell how far they are, end at once when they are
# cancelled, and work on a standby and while commands go on; the aggregates <name>_state survive a
# dump, and the loss of the extension.
#
# Catches: memory that grows with the events, the instances, the findings or the
# subtransactions; a cancellation that counts as a fold that failed; silence for
# minutes; a lock, or a row that is written, where the server is a standby; a false alarm about what is
# being written at the moment.
#
# 200,000 events; with ESRS_LONG=1 there are 1,000,000.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = $ENV{ESRS_LONG} ? 1_000_000 : 200_000;
my $alone = $events / 4;    # those of the longest instance; all others have three
my $few = 1024;             # by how many kB memory may grow
my $testlib = "$ENV{TESTDIR}/testlib/esrs_testlib";
my $have_c = -e "$testlib.so";
my $big = id(1);

my $primary = new_node('primary', streaming => 1, conf => <<'CONF');
shared_buffers = 64MB
work_mem = 256kB
esrs.max_workers = 0
CONF

sub sql { return $primary->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');

# What a backend takes, told by the fold itself: its contexts, and all that is the process' own.
# The state counts events, so that it has one size.
sql(<<SQL);
SET client_min_messages = warning;
CREATE FUNCTION tell_memory() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$
BEGIN
    RAISE NOTICE 'memory: % %', (SELECT sum(total_bytes)::bigint / 1024 FROM pg_backend_memory_contexts),
        CASE WHEN pg_read_file('/proc/self/maps') ~ 'libasan' THEN 0    -- which keeps what is freed
             ELSE coalesce((regexp_match(pg_read_file('/proc/self/status'), 'RssAnon:\\s+(\\d+)'))[1]::bigint, 0) END;
END \$\$;
CREATE FUNCTION big_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[command];
CREATE FUNCTION big_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$
BEGIN
    IF (event ->> 'n')::int % ($events / 20) = $events / 40 THEN
        PERFORM public.tell_memory();
    END IF;
    RETURN jsonb_build_object('n', (state ->> 'n')::int + 1, 'last', event -> 'n');
END \$\$;
CREATE FUNCTION big_apply_two(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('n', (state ->> 'n')::int + 2, 'last', event -> 'n');
CREATE FUNCTION big_apply_raises(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS
    \$\$BEGIN IF (event ->> 'n')::int % 2 = 0 THEN RAISE 'even'; END IF; RETURN state; END\$\$;
CREATE FUNCTION big_no(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN payload;
SELECT esrs_register_aggregate('big', handle_command => 'big_handle(jsonb,jsonb)', apply_event => 'big_apply(jsonb,jsonb)',
    initial_state => '{"n": 0}', snapshot_every => 3);
INSERT INTO big_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), $big, jsonb_build_object('n', n), n FROM generate_series(1, $alone) AS n;
INSERT INTO big_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), ('f0000000-0000-4000-8000-' || lpad(((n + 2) / 3)::text, 12, '0'))::uuid, jsonb_build_object('n', n + $alone), (n + 2) % 3 + 1
      FROM generate_series(1, $events - $alone) AS n;
VACUUM ANALYZE big_events;
SQL
my $instances = sql('SELECT count(DISTINCT aggregate_id) FROM big_events');

# ---------------------------------------------------------------------------
# memory
# ---------------------------------------------------------------------------

# Runs a statement and judges what the fold has told of memory meanwhile.  Returns the
# result and the notices.
sub in_constant_memory
{
	my ($node, $name, $statement, $result) = @_;
	my ($rc, $stdout, $stderr) = $node->psql('postgres', $statement);
	my @told = $stderr =~ /memory: (\d+ \d+)/g;
	my @contexts = map { (split / /)[0] } @told;
	my @anonymous = map { (split / /)[1] } @told;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$rc $stdout", "0 $result", "$name: the result") || diag($stderr);
	cmp_ok(scalar(@told), '>=', 20, "$name: it was looked at often");

	# from the middle on: by then there is what is needed once
	cmp_ok($contexts[-1] - $contexts[@told / 2], '<', $few, "$name: contexts do not grow") || diag("@contexts");
	cmp_ok($anonymous[-1] - $anonymous[@told / 2], '<', $few, "$name: nor does the process") || diag("@anonymous");
	$stderr =~ s/^.*NOTICE:  memory: .*\n//mg;
	return $stderr;
}

my $stderr = in_constant_memory($primary, 'esrs_verify', "SELECT count(*) FROM esrs_verify('big')", '0');
like($stderr, qr/verified aggregate "big": $events events, $instances instances/, 'esrs_verify has seen everything');
in_constant_memory($primary, 'esrs_states', "SELECT count(*), sum((state ->> 'n')::int) FROM esrs_states('big')",
	"$instances|$events");
in_constant_memory($primary, 'esrs_states, long ago', "SELECT count(*) FROM esrs_states('big', '-infinity'); SELECT count(*) FROM esrs_states('big')",
	"0\n$instances");
in_constant_memory($primary, 'esrs_diff, nothing differs',
	"SELECT count(*) FROM esrs_diff('big', to_event => 'big_no(jsonb)')", '0');
in_constant_memory($primary, 'esrs_diff, everything differs',
	"SELECT count(*), sum((new_state ->> 'n')::int - (state ->> 'n')::int) FROM esrs_diff('big', apply_event => 'big_apply_two(jsonb,jsonb)')",
	"$instances|$events");
in_constant_memory($primary, 'esrs_diff, everything fails',
	"SELECT count(*), count(error) FROM esrs_diff('big', apply_event => 'big_apply_raises(jsonb,jsonb)')",
	"$instances|$instances");
$stderr = in_constant_memory($primary, 'snapshots are rebuilt',
	"SELECT esrs_alter_aggregate('big', '{\"snapshots\": \"rebuild\"}')", '');
like($stderr, qr/took snapshots of $instances of $instances instances of aggregate "big"/, 'of all instances');
is(sql("SELECT count(*), sum(sequence_number) FROM esrs.snapshots WHERE aggregate = 'big'"), "$instances|$events", 'and there they are');
$stderr = in_constant_memory($primary, 'esrs_verify with snapshots', "SELECT count(*) FROM esrs_verify('big')", '0');
like($stderr, qr/^DETAIL: .*\b$instances snapshots are what a fold/m, 'it proves each');

# a finding for each instance, and rows of as many that are not there
sql(<<SQL);
UPDATE esrs.snapshots SET checksum = checksum + 1 WHERE aggregate = 'big';
INSERT INTO esrs.commands (aggregate_id, aggregate, command_id, sha256, sequence_number, events)
    SELECT ('80000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'big', gen_random_uuid(), '\\x00', 1, 1 FROM generate_series(1, $instances) AS n;
SQL
in_constant_memory($primary, 'esrs_verify, everything is wrong',
	"SELECT severity, count(*) FROM esrs_verify('big') GROUP BY 1 ORDER BY 1", "error|$instances\nwarning|$instances");
sql("DELETE FROM esrs.commands WHERE aggregate = 'big'; SELECT esrs_alter_aggregate('big', '{\"snapshots\": \"rebuild\"}')");

SKIP:
{
	skip 'testlib is not built: no aggregate in C', 8 unless $have_c;

	# every event is folded in C as well: into JSON, and into a struct
	for my $name ('tally', 'counter')
	{
		sql("CREATE FUNCTION $name(internal) RETURNS esrs.aggregate_handler AS '$testlib', 'testlib_$name' LANGUAGE C");
		in_constant_memory($primary, "esrs_diff with $name in C",
			"SELECT count(*), count(error) FROM esrs_diff('big', handler => '$name(internal)')", "$instances|0");
	}
}

# ---------------------------------------------------------------------------
# progress, and cancelling
# ---------------------------------------------------------------------------

# so slow that it takes more than the 5 seconds between two notices
sql(<<'SQL');
SET client_min_messages = warning;
CREATE FUNCTION slow_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[command];
CREATE FUNCTION slow_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$BEGIN PERFORM pg_sleep(0.006); RETURN event; END$$;
CREATE FUNCTION newest(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN event;
SELECT esrs_register_aggregate('slow', handle_command => 'slow_handle(jsonb,jsonb)', apply_event => 'slow_apply(jsonb,jsonb)', snapshot_every => 1);
INSERT INTO slow_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), lpad(to_hex((n + 2) / 3), 32, '0')::uuid, jsonb_build_object('n', n), (n + 2) % 3 + 1 FROM generate_series(1, 1200) AS n;
-- a few events, each of which takes its time
CREATE FUNCTION slower_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$BEGIN PERFORM pg_sleep(0.1); RETURN event; END$$;
SELECT esrs_register_aggregate('slower', handle_command => 'slow_handle(jsonb,jsonb)', apply_event => 'slower_apply(jsonb,jsonb)');
INSERT INTO slower_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, jsonb_build_object('n', n), 1 FROM generate_series(1, 75) AS n;
SQL

my $scripts = 0;

# A psql that runs beside us, with statements from a file, so that nobody has to feed it.
sub start_psql
{
	my ($statements) = @_;
	my $file = "$ENV{TESTDIR}/tmp_check/017_" . ++$scripts . '.sql';
	my $run = { out => '', err => '' };

	append_to_file($file, $statements);
	$run->{run} = IPC::Run::start(
		[ 'psql', '-X', '-A', '-t', '-q', '-d', $primary->connstr('postgres'), '-v', 'VERBOSITY=verbose', '-f', $file ],
		'<', \undef, '>', \$run->{out}, '2>', \$run->{err}, IPC::Run::timeout(300));
	return $run;
}

my %slow = (
	'esrs_verify()' => "SELECT * FROM esrs_verify('slow');",
	'esrs_states()' => "SELECT count(*) FROM esrs_states('slow');",
	'esrs_diff()' => "SELECT * FROM esrs_diff('slow', apply_event => 'newest(jsonb,jsonb)');",
	'esrs_alter_aggregate()' => "SELECT esrs_alter_aggregate('slow', '{\"snapshots\": \"rebuild\"}');");
my %runs = map { $_ => start_psql($slow{$_}) } keys %slow;
my $slower = start_psql("SELECT * FROM esrs_verify('slower');");
for (sort keys %runs)
{
	$runs{$_}{run}->finish;
	like($runs{$_}{err}, qr/NOTICE:  00000: \Q$_\E: \d+ events of \d+ instances of aggregate "slow" so far/, "$_ tells how far it is");
}
$slower->{run}->finish;
like($slower->{err}, qr/NOTICE:  00000: esrs_verify\(\): \d+ events of \d+ instances of aggregate "slower" so far/,
	'also where a few events take long');

# more than minutes of work, cancelled as soon as it runs; the session goes on
my %long = (
	'esrs_verify' => "SELECT * FROM esrs_verify('endless')",
	'esrs_states' => "SELECT count(*) FROM esrs_states('endless')",
	'esrs_diff, the present fold' => "SELECT * FROM esrs_diff('endless', apply_event => 'newest(jsonb,jsonb)')",
	'esrs_diff, the new fold' => "SELECT * FROM esrs_diff('short', apply_event => 'endless_apply(jsonb,jsonb)')",
	'the rebuild of snapshots' => "SELECT esrs_alter_aggregate('endless', '{\"snapshots\": \"rebuild\"}')",
	'endless_state' => 'SELECT endless_state(payload, version) FROM endless_events');
sql(<<'SQL');
SET client_min_messages = warning;
-- one that catches what it can
CREATE FUNCTION endless_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM count(*) FROM generate_series(1, 20000);
    RETURN event;
EXCEPTION WHEN OTHERS THEN
    RETURN event;
END $$;
SELECT esrs_register_aggregate('endless', handle_command => 'slow_handle(jsonb,jsonb)', apply_event => 'endless_apply(jsonb,jsonb)', snapshot_every => 1);
SELECT esrs_register_aggregate('short', handle_command => 'slow_handle(jsonb,jsonb)', apply_event => 'newest(jsonb,jsonb)');
INSERT INTO endless_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), gen_random_uuid(), '{}', 1 FROM generate_series(1, 200000);
INSERT INTO short_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), gen_random_uuid(), '{}', 1 FROM generate_series(1, 200000);
SQL
for (sort keys %long)
{
	my $run = start_psql("SET application_name = 'long'; $long{$_};\nSELECT 'goes on', txid_current_if_assigned() IS NULL;\n");

	ok(wait_until($primary, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'long'
	                                             AND state = 'active' AND query_start < clock_timestamp() - interval '0.3 s')"),
		"$_: runs");
	is(sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'long'"), 't', "$_: cancelled");
	$run->{run}->finish;
	like($run->{err}, qr/ERROR:  57014: canceling statement due to user request/, "$_: ends as cancelled");
	is($run->{out}, "goes on|t\n", "$_: with nothing else, and the session goes on");
}
is(sql("SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'endless'"), '0', 'and nothing is half done');

# ---------------------------------------------------------------------------
# while commands go on
# ---------------------------------------------------------------------------

sql(counter_sql('busy'));
sql(q(SELECT esrs_alter_aggregate('busy', '{"snapshot_every": 2}')));
my $writer = sub {
	my ($n) = @_;
	return start_psql(<<SQL);
DO \$\$
BEGIN
    FOR i IN 1 .. 1500 LOOP
        BEGIN
            PERFORM esrs_handle_command('busy', lpad(to_hex(i % 37), 32, '0')::uuid, '{"add": 1}', command_id => gen_random_uuid());
            IF i % 10 = 0 THEN PERFORM esrs_delete('busy', lpad(to_hex((i * $n) % 37), 32, '0')::uuid); END IF;
            IF i % 7 = 0 THEN RAISE 'no more'; END IF;
        EXCEPTION WHEN raise_exception THEN
        END;
        COMMIT;
    END LOOP;
END \$\$;
SQL
};
my @writers = map { $writer->($_) } 1 .. 2;
my ($looked, $alarms) = (0, '');
while (grep { $_->{run}->pumpable } @writers)
{
	$_->{run}->pump_nb for grep { $_->{run}->pumpable } @writers;
	$alarms .= sql("SET client_min_messages = warning; SELECT * FROM esrs_verify('busy')");
	$looked++;
}
$_->{run}->finish for @writers;
is(join('', map { $_->{err} } @writers), '', 'writers were not disturbed');
is($alarms, '', 'esrs_verify sees one moment of what is being written');
cmp_ok($looked, '>', 1, 'it has looked more than once');
is(sql("SET client_min_messages = warning; SELECT count(*) FROM esrs_verify('busy')"), '0', 'nor is there an alarm in the end');

# ---------------------------------------------------------------------------
# read-only, and on a standby
# ---------------------------------------------------------------------------

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# as text, without what the fold tells
my $picture = <<"SQL";
SET client_min_messages = warning;
SELECT 'verify', v.* FROM esrs_verify('busy') AS v;
SELECT 'verify', v.* FROM esrs_verify('damaged') AS v;
SELECT 'states', s.* FROM esrs_states('damaged') AS s;
SELECT 'states', s.* FROM esrs_states('damaged', '2024-01-02') AS s;
SELECT 'diff', d.* FROM esrs_diff('damaged', apply_event => 'newest(jsonb,jsonb)') AS d;
SELECT 'query', aggregate_id, damaged_state(payload, version ORDER BY sequence_number) FROM damaged_events GROUP BY 2 ORDER BY 2;
SELECT 'query', aggregate_id, damaged_state(payload ORDER BY sequence_number) FROM damaged_events GROUP BY 2 ORDER BY 2;
SQL
sql(<<'SQL');
SET client_min_messages = warning;
CREATE TABLE trace (a int);
CREATE FUNCTION writes(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN INSERT INTO trace VALUES (1); RETURN state; END$$;
CREATE FUNCTION types(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN state || event;
SELECT esrs_register_aggregate('damaged', handle_command => 'slow_handle(jsonb,jsonb)', apply_event => 'types(jsonb,jsonb)', snapshot_every => 1);
SELECT esrs_handle_command('damaged', lpad(n::text, 32, '0')::uuid, jsonb_build_object(i, n), command_id => gen_random_uuid())
  FROM generate_series(1, 3) AS n, generate_series(1, 3) AS i ORDER BY n, i;
INSERT INTO damaged_events (id, aggregate_id, payload, sequence_number, occurred_on) VALUES
    (gen_random_uuid(), lpad('4', 32, '0')::uuid, '{"a": 1}', 2, '2024-01-01'), (gen_random_uuid(), lpad('4', 32, '0')::uuid, '{"b": 1}', 5, '2024-01-03');
UPDATE esrs.snapshots SET state = '{"1": 7}' WHERE aggregate = 'damaged' AND aggregate_id = lpad('2', 32, '0')::uuid;
SQL
my $seen = sql($picture);
is(() = $seen =~ /^verify\|/mg, 2, 'there is something to find');
is($primary->safe_psql('postgres', "BEGIN READ ONLY; $picture COMMIT"), $seen, 'a read-only transaction sees the same');
is($primary->safe_psql('postgres', "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; $picture COMMIT"), $seen, 'and one of an older snapshot');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $picture), $seen, 'and so does a standby');
is($standby->safe_psql('postgres', "BEGIN; SAVEPOINT s; $picture ROLLBACK TO s; COMMIT"), $seen, 'in a savepoint, too');
$stderr = in_constant_memory($standby, 'esrs_verify on a standby', "SELECT count(*) FROM esrs_verify('big')", '0');
like($stderr, qr/^DETAIL: .*\b$instances snapshots are what a fold/m, 'it proves the snapshots there');
in_constant_memory($standby, 'esrs_diff on a standby',
	"SELECT count(*) FROM esrs_diff('big', apply_event => 'big_apply_two(jsonb,jsonb)')", $instances);
in_constant_memory($standby, 'esrs_states on a standby', "SELECT count(*) FROM esrs_states('big')", $instances);
like(($standby->psql('postgres', "\\set VERBOSITY verbose\nSELECT esrs_alter_aggregate('big', '{\"snapshots\": \"rebuild\"}')"))[2],
	qr/ERROR:  25006:/, 'snapshots are not rebuilt on a standby');
# a fold that writes is an error of the fold
is($standby->safe_psql('postgres', <<'SQL'), '3', 'a fold that writes cannot, and that is told of each instance');
SELECT count(*) FROM esrs_diff('damaged', apply_event => 'writes(jsonb,jsonb)') WHERE error ~ '25006' AND aggregate_id <> lpad('4', 32, '0')::uuid;
SQL
$standby->stop;

# ---------------------------------------------------------------------------
# <name>_state: dumped and restored; without the extension; registered again
# ---------------------------------------------------------------------------

sql('CREATE DATABASE source');
sub in_source { return $primary->safe_psql('source', $_[0]) }
my $folds = "SELECT p.oid::regprocedure, a.aggtransfn, a.agginitval FROM pg_aggregate AS a JOIN pg_proc AS p ON p.oid = a.aggfnoid WHERE p.proname = 'book_state' ORDER BY 1::text";
my $both = qq(book_state(jsonb)|esrs.fold|{"seen":"."}\nbook_state(jsonb,integer)|esrs.fold|{"seen":"."});
my $shown = 'SELECT book_state(payload ORDER BY sequence_number) AS plain, book_state(payload, version ORDER BY sequence_number) AS versioned FROM book_events';
my $register = q(SELECT esrs_register_aggregate('book', handle_command => 'book_handle(jsonb,jsonb)', apply_event => 'book_apply(jsonb,jsonb)', initial_state => '{"seen": "."}'));
in_source(<<"SQL");
SET client_min_messages = warning;
CREATE EXTENSION esrs;
CREATE FUNCTION book_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[command];
CREATE FUNCTION book_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN jsonb_build_object('seen', (state ->> 'seen') || (event ->> 'x'));
$register;
SELECT esrs_handle_command('book', $big, '{"x": "a"}'), esrs_handle_command('book', $big, '{"x": "b"}');
CREATE VIEW books AS $shown;
SQL
is(in_source($folds), $both, 'there are two aggregates');
my $dump = "$ENV{TESTDIR}/tmp_check/017_source.sql";
sql('CREATE DATABASE restored TEMPLATE template0');
command_ok([ 'pg_dump', '-f', $dump, '-d', $primary->connstr('source') ], 'dumped');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('restored'), '-f', $dump ], 'restored');
sub in_restored { return $primary->safe_psql('restored', $_[0]) }
is(in_restored($folds), $both, 'restored: they are there');
is(in_restored('SELECT * FROM books'), '{"seen": ".ab"}|{"seen": ".ab"}', 'restored: they fold');
is(in_restored("SELECT state FROM esrs_states('book')"), '{"seen": ".ab"}', 'restored: so does esrs_states');
in_restored(q(SELECT esrs_alter_aggregate('book', '{"initial_state": {"seen": ":"}}')));
is(in_restored('SELECT * FROM books'), '{"seen": ":ab"}|{"seen": ":ab"}', 'restored: they follow an alteration');
in_restored(q(DROP VIEW books; SELECT esrs_unregister_aggregate('book')));
is(in_restored($folds), '', 'restored: and go when it is unregistered');

# what the extension takes with it comes back
$primary->psql('source', 'DROP EXTENSION esrs', on_error_stop => 0);
is(in_source($folds), $both, 'a plain DROP EXTENSION changes nothing');
in_source('SET client_min_messages = warning; DROP EXTENSION esrs CASCADE');
is(in_source($folds), '', 'without the extension there is none');
in_source('CREATE EXTENSION esrs');
$stderr = ($primary->psql('source', $register))[2];
unlike($stderr, qr/book_state/, 'registered again: nothing is in the way');
is(in_source($folds), $both, 'registered again: there are two');
is(in_source($shown), '{"seen": ".ab"}|{"seen": ".ab"}', 'registered again: they fold');
in_source(q(SELECT esrs_unregister_aggregate('book')));
is(in_source($folds), '', 'and go');

$primary->stop;
done_testing();
