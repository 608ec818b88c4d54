# The life of the background worker: it comes with the first append, is woken by commits
# and not by its clock, goes when there is nothing to do or somebody wants the database,
# comes back, and leaves no trace in the log.
#
# Catches: a wake-up before the writer's locks are gone, or none; an append between the
# worker's last look and its end that nobody handles; a worker that spins, fills the log,
# writes what events hold into it, keeps a database from being dropped, or dies with an
# error of a handler; a missing worker that makes commands fail, or is complained of again
# and again.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

# sessions of this test are not to feel what is set for the worker
$ENV{PGOPTIONS} = '-c statement_timeout=0';

# with slow polling, what nobody tells the worker takes seconds
my $node = new_node('worker', streaming => 1, conf => <<'CONF');
shared_buffers = 32MB
synchronous_commit = local
track_commit_timestamp = on
max_locks_per_transaction = 1000
log_error_verbosity = verbose
esrs.poll_interval = 10s
esrs.worker_idle_timeout = 0
CONF

sub sql { return $node->safe_psql($_[1] || 'postgres', $_[0]) }

# ok() with what wait_until() finds
sub reaches
{
	my ($condition, $name, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = ok(wait_until($node, $database || 'postgres', $condition), $name);
	diag(sql('SELECT * FROM esrs_lag', $database)) if !$ok;
	return $ok;
}

# A condition: a handler has handled so many events.
sub handled
{
	my ($handler, $count) = @_;

	return "SELECT count(*) = $count FROM handled WHERE handler = '$handler'";
}

# append(HOW MANY, INSTANCE, DATABASE): one transaction
sub append
{
	my ($n, $instance, $database) = @_;

	return sql("SELECT count(*) FROM esrs_persist('counter', " . id($instance || 1) .
		  ", array_fill('{\"added\": 1}'::jsonb, ARRAY[$n]))", $database);
}

my $pid_of_worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'esrs worker'
    AND datname = current_database() AND application_name = 'esrs worker 1'";

# ---------------------------------------------------------------------------
# start, without preloading
# ---------------------------------------------------------------------------

for my $database ('postgres', 'second')
{
	$node->safe_psql('postgres', 'CREATE DATABASE second') if $database eq 'second';
	sql('CREATE EXTENSION esrs', $database);
	sql(counter_sql('counter') . counter_sql('other') . recorder_sql('async') . recorder_sql('total'), $database);
}
sql("SELECT count(*) FROM esrs_feed(ARRAY['counter'])");
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'"), '0', 'nothing runs before it is needed');
append(1);
reaches("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND datname = current_database()
    AND application_name = 'esrs worker 1' AND usename = current_user", 'the first append starts a worker, which pg_stat_activity shows');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'"), '1', 'one, in this database');

# ---------------------------------------------------------------------------
# a lone writer: wake-up
# ---------------------------------------------------------------------------

# Each transaction begins when the last one is handled.  It has many locks to release, so
# that a worker that is woken too early still finds its bound.
sql(<<'SQL');
SELECT esrs_register_handler('async', ARRAY['counter'], 'on_async(esrs_event)', mode => 'async'),
    esrs_register_handler('total', ARRAY['counter'], 'on_total(esrs_event)', mode => 'async', ordering => 'total');
CREATE PROCEDURE lone_writer(rounds int) LANGUAGE plpgsql AS $$
DECLARE
    last bigint;
    until timestamptz;
BEGIN
    FOR i IN 1..rounds LOOP
        PERFORM pg_advisory_xact_lock(l) FROM generate_series(1, 20000) AS l;
        SELECT max(position) INTO last FROM esrs_persist('counter', '00000000-0000-4000-8000-000000000002',
            ARRAY['{"added": 1}']::jsonb[]);
        COMMIT;
        until := clock_timestamp() + '15 s';
        WHILE (SELECT count(*) < 2 FROM handled WHERE position = last) AND clock_timestamp() < until LOOP
            COMMIT;
            PERFORM pg_sleep(0.002);
        END LOOP;
        COMMIT;
    END LOOP;
END $$;
CALL lone_writer(20);
SQL
my $lag = "SELECT h.handler, percentile_disc(0.5) WITHIN GROUP (ORDER BY lag), max(lag), count(*)
    FROM (SELECT handler, round(1000 * extract(epoch FROM pg_xact_commit_timestamp(h.xmin) - pg_xact_commit_timestamp(e.xmin))) AS lag
          FROM handled AS h JOIN counter_events AS e USING (position)) AS h GROUP BY 1 ORDER BY 1";
for my $row (split /\n/, sql($lag))
{
	my ($handler, $median, $max, $n) = split /\|/, $row;

	note("$handler: commit to handled, median $median ms, longest $max ms");
	is($n, 20, "$handler: each event was handled, once");
	cmp_ok($median, '<', 1000, "$handler: soon after the commit, not after the next look around");
}

# a rollback unblocks those who have committed
my @pauses;
for my $i (1 .. 5)
{
	my $blocker = $node->background_psql('postgres');

	$blocker->query_safe('BEGIN');
	$blocker->query_safe("SELECT count(*) FROM esrs_persist('counter', " . id(3) . ", ARRAY['{\"added\": 1}']::jsonb[])");
	append(1);
	wait_until($node, 'postgres', handled('async', 20 + $i));
	# long enough for the worker to have gone back to sleep
	sql('SELECT pg_sleep(0.1)');
	is(sql("SELECT count(*) FROM handled WHERE handler = 'total'"), 19 + $i, 'a total handler waits for a writer')
	  if $i == 1;
	my $before = sql('SELECT clock_timestamp()');
	$blocker->query_safe('ROLLBACK');
	wait_until($node, 'postgres', handled('total', 20 + $i));
	push @pauses, sql("SELECT round(1000 * extract(epoch FROM max(at) - '$before')) FROM handled WHERE handler = 'total'");
	$blocker->quit;
}
note("rollback to handled: @pauses ms");
cmp_ok((sort { $a <=> $b } @pauses)[2], '<', 1000, 'and goes on soon after its rollback');

# ---------------------------------------------------------------------------
# what it shows while a handler runs; what ends the handler, and what the worker
# ---------------------------------------------------------------------------

sql("SELECT esrs_unregister_handler('total')");

# make_slow(HANDLER): its next call sleeps; returns when it does.
my $expected = 25;
sub make_slow
{
	sql("INSERT INTO slow VALUES ('async', 300)");
	append(1);
	$expected++;
	return wait_until($node, 'postgres',
		"SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND datname = current_database()");
}

# once_more(NAME): what was interrupted is handled now, once
sub once_more
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	reaches(handled('async', $expected), "$name: the event is handled afterwards");
	is(sql("SELECT count(*) FROM handled WHERE handler = 'async'"), $expected, "$name: once");
}

ok(make_slow(), 'a handler sleeps');
is(sql("SELECT state, query FROM pg_stat_activity WHERE backend_type = 'esrs worker'"),
	'active|event handler async', 'pg_stat_activity shows which');
is(sql("SELECT worker_pid = ($pid_of_worker), events_behind FROM esrs_lag"), 't|1', 'so does esrs_lag');
my $pid = sql($pid_of_worker);
sql("DELETE FROM slow; SELECT pg_cancel_backend($pid)");
once_more('pg_cancel_backend');
is(sql($pid_of_worker), $pid, 'pg_cancel_backend: the worker lives on');
is(sql('SELECT count(*) FROM esrs_dead_letters'), '0', 'pg_cancel_backend: and nothing was given up');

# when it has nothing to do
my $log = log_size($node);
sql("SELECT pg_cancel_backend($pid)");
append(1);
$expected++;
once_more('pg_cancel_backend, idle');
is(sql($pid_of_worker), $pid, 'pg_cancel_backend, idle: the worker lives on');
is(join("\n", messages(log_from($node, $log))), '', 'pg_cancel_backend, idle: and says nothing');

make_slow();
$log = log_size($node);
sql("DELETE FROM slow; SELECT pg_terminate_backend($pid)");
reaches(workers('postgres', 0), 'pg_terminate_backend: it ends');
append(1);
$expected++;
once_more('pg_terminate_backend');
isnt(sql($pid_of_worker), $pid, 'pg_terminate_backend: by another worker');
is(() = log_from($node, $log) =~ /FATAL: /g, 1, 'pg_terminate_backend: one line in the log');

make_slow();
is(sql("DELETE FROM slow; SELECT esrs_stop_workers()"), '1', 'esrs_stop_workers: one was stopped, in the middle of a handler');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'esrs worker'"), '0', 'esrs_stop_workers: it is gone');
is(sql("SELECT esrs_stop_workers()"), '0', 'esrs_stop_workers: none is left');
is(sql("SELECT esrs_start_workers()"), 't', 'esrs_start_workers: one will run');
once_more('esrs_start_workers');
is(sql("SELECT esrs_start_workers()"), 't', 'esrs_start_workers: again');
reaches(workers('postgres', 1), 'esrs_start_workers: there is one');

# a reload reaches the worker, and the next call
configure($node, 'statement_timeout' => '1s');
make_slow();
reaches("SELECT attempts > 0 AND last_error LIKE '%statement timeout%' FROM esrs_lag", 'statement_timeout ends a handler', 'postgres');
sql('DELETE FROM slow');

# without it: on a slow machine any call could exceed it
configure($node, 'statement_timeout' => '0');
once_more('statement_timeout');

# from here on somebody listens: whoever tells, writer or worker, and however often workers
# come and go, each event is to be told once, in order
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN counter_events');
my $first_told = sql('SELECT last_value + 1 FROM esrs.position_seq');

# what LISTENER has heard, positions, when it is COUNT or some time has passed
sub heard
{
	my ($listener, $count) = @_;
	my $end = time() + 60;
	my @heard;

	while (1)
	{
		push @heard, $listener->query_safe('SELECT 1') =~ /"position":(\d+)\}/g;
		last if @heard >= $count || time() > $end;
		select(undef, undef, undef, 0.05);
	}
	return @heard;
}

configure($node, 'esrs.max_workers' => '0');
reaches(workers('postgres', 0), 'max_workers = 0: the worker ends');
append(1);
$expected++;
is(sql("SELECT esrs_start_workers()"), 'f', 'max_workers = 0: none can be started');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'esrs worker'"), '0', 'max_workers = 0: none comes');
sql("CALL esrs_run_handlers()");
once_more('max_workers = 0, CALL');
configure($node, 'esrs.max_workers' => '2');
append(1);
$expected++;
once_more('max_workers = 2');

# ---------------------------------------------------------------------------
# idle: it ends, comes back, and nothing falls in between
# ---------------------------------------------------------------------------

configure($node, 'esrs.worker_idle_timeout' => '20ms', 'esrs.poll_interval' => '10ms');
reaches(workers('postgres', 0), 'idle, it ends');
append(1);
$expected++;
once_more('idle, and woken');

# a commit that takes its time: a writer who has seen the worker waits for a standby that
# there is none of, so that nobody sees his event, until the worker has become idle
configure($node, 'synchronous_standby_names' => "'nobody'");
my $slow = $node->background_psql('postgres');
my $slow_pid = $slow->query_safe('SELECT pg_backend_pid()');
$slow->{stdin} .= "SET synchronous_commit = on; SELECT count(*) FROM esrs_persist('counter', " . id(1) . ", ARRAY['{\"added\": 1}']::jsonb[]);\n";
$slow->{run}->pump_nb;
$expected++;
reaches("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $slow_pid AND wait_event = 'SyncRep')", 'a slow commit: it hangs');
# many times the timeout
sql('SELECT pg_sleep(0.3)');
configure($node, 'synchronous_standby_names' => "''");
once_more('a slow commit');
$slow->quit;

# two writers, whose appends fall around the end of the worker; each waits for its own
my $before = sql("SELECT max(nth) FROM handled");
sql(<<'SQL');
CREATE TABLE lost (position bigint);
CREATE FUNCTION wait_handled(which bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + '20 s';
BEGIN
    WHILE NOT EXISTS (SELECT FROM handled WHERE position = which) LOOP
        IF clock_timestamp() > until THEN
            INSERT INTO lost VALUES (which);
            EXIT;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;
SQL
$node->pgbench(
	'-n -M prepared -c 2 -j 2 -t 50',
	0,
	[qr/number of failed transactions: 0 /],
	[qr/^$/],
	'appends around the idle timeout: no client sees an error',
	{
		'010_idle' => <<'SQL'
\set pause random(0, 40000)
\set think random(0, 100000)
\set end random(1, 6)
BEGIN;
SELECT max(position) AS last FROM esrs_persist('counter', gen_random_uuid(), ARRAY['{"added": 1}']::jsonb[]) \gset
\sleep :pause us
\if :end = 1
ROLLBACK;
\else
COMMIT;
SELECT wait_handled(:last);
\endif
\sleep :think us
SQL
	});
$expected = sql("SELECT count(*) FROM counter_events WHERE position >= (SELECT min(position) FROM handled)");
is(sql('SELECT count(*) FROM lost'), '0', 'appends around the idle timeout: each was handled, with nobody to help');
once_more('appends around the idle timeout');
my ($came, $stayed) = split /\|/, sql("SELECT count(*) FILTER (WHERE pid <> before), count(*) FILTER (WHERE pid = before)
    FROM (SELECT pid, lag(pid) OVER (ORDER BY nth) AS before FROM handled WHERE nth > $before) AS h");
note("$came times another worker, $stayed times the same");
# how many have ended is a matter of the machine's load: told above, not judged
cmp_ok($stayed, '>', 0, 'appends around the idle timeout: and not always');
my $told = sql("SELECT string_agg(position::text, ' ' ORDER BY position) FROM counter_events WHERE position >= $first_told");
is(join(' ', heard($listener, scalar(split / /, $told))), $told, 'notifications: each event once, in order, none that was rolled back');
$listener->quit;
configure($node, 'esrs.worker_idle_timeout' => '0', 'esrs.poll_interval' => '1s');

# ---------------------------------------------------------------------------
# helpers
# ---------------------------------------------------------------------------

sql('SELECT esrs_stop_workers()');
configure($node, 'esrs.max_workers' => '3');
sql(recorder_sql('parts') . <<'SQL');
SELECT esrs_pause_handler('async');
INSERT INTO slow VALUES ('parts', 0.005);
SELECT esrs_register_handler('parts', ARRAY['other'], 'on_parts(esrs_event)', mode => 'async', partitions => 4, batch_size => 5);
SELECT esrs_pause_handler('parts');
SELECT count(*) FROM generate_series(1, 10) AS n, generate_series(1, 60) AS i,
    esrs_persist('other', lpad(i::text, 32, '0')::uuid, ARRAY[jsonb_build_object('added', n)]);
SELECT esrs_resume_handler('parts');
SQL
reaches("SELECT count(*) > 1 FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND datname = 'postgres'", 'with partitions, helpers come');
reaches(handled('parts', 600), 'the backlog is handled');
cmp_ok(sql("SELECT count(DISTINCT pid) FROM handled WHERE handler = 'parts'"), '>', 1, 'by more than one worker');
is(sql("SELECT count(*) FROM (SELECT sequence_number - coalesce(lag(sequence_number) OVER
        (PARTITION BY aggregate_id ORDER BY nth), 0) AS step FROM handled WHERE handler = 'parts') AS h WHERE step <> 1"),
	'0', 'each event once, each instance in order');
reaches(workers('postgres', 1), 'then the helpers go');
is(sql("SELECT application_name FROM pg_stat_activity WHERE backend_type = 'esrs worker'"), 'esrs worker 1', 'and the first one stays');
sql("SELECT esrs_unregister_handler('parts'); SELECT esrs_resume_handler('async'); DELETE FROM slow");
configure($node, 'esrs.max_workers' => '2');

# ---------------------------------------------------------------------------
# two databases; dropping, copying and renaming one; another version of the extension
# ---------------------------------------------------------------------------

sql("SELECT esrs_register_handler('async', ARRAY['counter'], 'on_async(esrs_event)', mode => 'async')", 'second');
append(1);
$expected++;
append(2, 1, 'second');
reaches(handled('async', 2), 'a second database has its own worker', 'second');
once_more('the first one, too');
is(sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'esrs worker'"),
	'postgres second', 'both are shown');

# succeeds(NAME, STATEMENT): with a worker in database "second", which stays away
sub succeeds
{
	my ($name, $statement, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_until($node, 'postgres', workers($database || 'second', 1)), "$name: a worker is there");
	my ($rc, undef, $stderr) = $node->psql('postgres', $statement);
	is($rc . $stderr, '0', "$name: succeeds");
}
succeeds('CREATE DATABASE TEMPLATE', 'CREATE DATABASE third TEMPLATE second');
append(1, 1, 'second');
reaches(handled('async', 3), 'CREATE DATABASE TEMPLATE: the original goes on', 'second');
append(1, 1, 'third');
reaches(handled('async', 3), 'CREATE DATABASE TEMPLATE: so does the copy', 'third');
succeeds('ALTER DATABASE RENAME', 'ALTER DATABASE second RENAME TO renamed');
append(1, 1, 'renamed');
reaches(handled('async', 4), 'ALTER DATABASE RENAME: goes on', 'renamed');
sql("INSERT INTO slow VALUES ('async', 0.01)", 'renamed');
append(3000, 1, 'renamed');
reaches("SELECT count(*) > 4 FROM handled", 'DROP DATABASE: in the middle of a backlog', 'renamed');
succeeds('DROP DATABASE', 'DROP DATABASE renamed', 'renamed');

# in the middle of a handler
sql("INSERT INTO slow VALUES ('async', 300)", 'third');
append(1, 1, 'third');
reaches("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND datname = 'third' AND wait_event = 'PgSleep'",
	'a handler sleeps');
succeeds('DROP DATABASE WITH (FORCE)', 'DROP DATABASE third WITH (FORCE)', 'third');
is(sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'"),
	'postgres', 'only the first is left');

# another version: the worker's library may not be the right one; the writer has seen it alive
for my $version ("'0.9'", "(SELECT default_version FROM pg_available_extensions WHERE name = 'esrs')")
{
	$pid = sql($pid_of_worker);
	sql("BEGIN; UPDATE pg_extension SET extversion = $version WHERE extname = 'esrs';
	     SELECT count(*) FROM esrs_persist('counter', " . id(1) . ", ARRAY['{\"added\": 1}']::jsonb[]); COMMIT");
	reaches("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 'when the extension changes its version, the worker ends');
	$expected++;
	once_more('another takes its place');
}

# the extension is dropped and comes back
reaches(workers('postgres', 1), 'DROP EXTENSION: a worker is there');
sql('SET client_min_messages = warning; DROP EXTENSION esrs CASCADE; CREATE EXTENSION esrs');
sql("SET client_min_messages = warning;
     SELECT esrs_register_aggregate('counter', handle_command => 'counter_handle(jsonb,jsonb)', apply_event => 'counter_apply(jsonb,jsonb)');
     DROP TABLE handled, slow;" . recorder_sql('async') . "
     SELECT esrs_register_handler('async', ARRAY['counter'], 'on_async(esrs_event)', mode => 'async')");
append(1);
reaches(handled('async', 1), 'DROP EXTENSION, CREATE EXTENSION: a new handler gets its event');
sql('SET client_min_messages = warning; DROP EXTENSION esrs CASCADE');
reaches(workers('postgres', 0), 'DROP EXTENSION: no worker stays');
sql("SET client_min_messages = warning; CREATE EXTENSION esrs;
     SELECT esrs_register_aggregate('counter', handle_command => 'counter_handle(jsonb,jsonb)', apply_event => 'counter_apply(jsonb,jsonb)');
     DROP TABLE handled, slow;" . recorder_sql('async') . "
     SELECT esrs_register_handler('async', ARRAY['counter'], 'on_async(esrs_event)', mode => 'async')");
append(1);
reaches(handled('async', 1), 'CREATE EXTENSION: a worker comes');

# ---------------------------------------------------------------------------
# trouble: no floods, no spinning, no payload
# ---------------------------------------------------------------------------

# transactions of a database; the worker's count when it ends
sub transactions
{
	sql('SELECT esrs_stop_workers()');
	return sql("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'");
}

# the messages among the lines of a log; a worker that is told to end is none of ours
sub messages { return grep { /(LOG|WARNING|ERROR|FATAL): / && !/administrator command|exited with|checkpoint/ } split /\n/, $_[0] }

# busy(NAME, LIMIT): in some seconds the worker begins fewer transactions than that, and
# in the second half of them it says next to nothing
sub busy
{
	my ($name, $limit) = @_;
	my $before = transactions();

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sql('SELECT esrs_start_workers()');
	sql('SELECT pg_sleep(1.5)');
	my $from = log_size($node);
	sql('SELECT pg_sleep(1.5)');
	my $done = transactions() - $before;
	my @messages = messages(log_from($node, $from));
	note("$name: $done transactions in 3 s, " . @messages . ' messages in the last half');
	cmp_ok($done, '<', $limit, "$name: it does not spin");
	cmp_ok(scalar(@messages), '<', 5, "$name: it does not fill the log") or diag(join("\n", @messages));
	return;
}
$log = log_size($node);
busy('idle', 80);
is(join("\n", messages(log_from($node, $log))), '', 'idle: nothing in the log');

# One handler fails in each way; the events, and what the functions say, bear a mark.
$log = log_size($node);
sql(recorder_sql($_)) for 'blocked', 'leased';
sql(<<'SQL');
SELECT esrs_register_aggregate('gone'), esrs_register_aggregate('bad');
CREATE FUNCTION on_gone(e esrs_event) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION on_dropped(e esrs_event) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION on_raise(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE '% cannot be handled', (e).payload USING DETAIL = (e).payload, HINT = (e).payload;
END $$;
CREATE FUNCTION on_cast(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT %L::int', (e).payload ->> 'text');
END $$;
CREATE TABLE narrow (t text CHECK (length(t) < 5));
CREATE FUNCTION on_check(e esrs_event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO narrow SELECT payload ->> 'text' FROM unnest(e) $$;
CREATE TABLE unique_text (t text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION on_deferred(e esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO unique_text VALUES ((e).payload ->> 'text') $$;
CREATE FUNCTION on_serialize(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE '%', (e).payload USING ERRCODE = '40001';
END $$;
CREATE FUNCTION on_sleepy(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SELECT pg_sleep(300), %L', (e).payload);
END $$;
SELECT esrs_register_handler('gone', ARRAY['gone'], 'on_gone(esrs_event)', mode => 'async'),
    esrs_register_handler('dropped', ARRAY['bad'], 'on_dropped(esrs_event)', mode => 'async'),
    esrs_register_handler('raise', ARRAY['bad'], 'on_raise(esrs_event)', mode => 'async', on_error => 'park', max_attempts => 2),
    esrs_register_handler('cast', ARRAY['bad'], 'on_cast(esrs_event)', mode => 'async', max_attempts => 1),
    esrs_register_handler('check', ARRAY['bad'], 'on_check(esrs_event[])', mode => 'async', on_error => 'stop', max_attempts => 2),
    esrs_register_handler('deferred', ARRAY['bad'], 'on_deferred(esrs_event)', mode => 'async', max_attempts => 2),
    esrs_register_handler('serialize', ARRAY['bad'], 'on_serialize(esrs_event)', mode => 'async', max_attempts => 1),
    esrs_register_handler('blocked', ARRAY['counter'], 'on_blocked(esrs_event)', mode => 'async', ordering => 'total'),
    esrs_register_handler('leased', ARRAY['counter'], 'on_leased(esrs_event)', mode => 'async');
SELECT esrs_stop_workers();
DROP FUNCTION on_dropped;
DROP TABLE gone_events;
SELECT count(*) FROM esrs_persist('bad', gen_random_uuid(), ARRAY['{"text": "MARK MARK"}', '{"text": "MARK MARK"}']::jsonb[]);
SQL
# two more that cannot go on: one behind a writer, one whose checkpoint somebody holds
my $writer = $node->background_psql('postgres');
my $holder = $node->background_psql('postgres');
$writer->query_safe("BEGIN; SELECT count(*) FROM esrs_persist('counter', " . id(4) . ", ARRAY['{\"added\": 1}']::jsonb[])");
$holder->query_safe("BEGIN; SELECT count(*) FROM (SELECT FROM esrs.checkpoints WHERE name = 'leased' FOR UPDATE) AS c");
append(1);
# all attempts first, however slow they are
reaches("SELECT count(*) >= 5 FROM esrs_dead_letters", 'in trouble: most have given up');
reaches("SELECT status = 'failed' FROM esrs_handlers WHERE name = 'check'", 'in trouble: or stopped');
busy('in trouble', 1000);
my $noise = log_from($node, $log);
$writer->query_safe('COMMIT');
$holder->query_safe('COMMIT');
$_->quit for $writer, $holder;
my @messages = messages($noise);
cmp_ok(scalar(@messages), '<', 20, 'in trouble: few messages') or diag(join("\n", @messages));
note(scalar(@messages) . ' messages');
like($noise, qr/WARNING: .*event handler "$_" has given up/, "in trouble: the log tells of what \"$_\" has given up")
  for 'raise', 'cast', 'check', 'deferred';
like($noise, qr/LOG: .*event handler "gone" could not be run/, 'in trouble: and of a handler that cannot be called');
append(1);
reaches("SELECT count(*) = 3 FROM handled WHERE handler = '$_'", "in trouble: \"$_\" has gone on") for 'blocked', 'leased';
sql("SELECT esrs_unregister_handler(name) FROM esrs_handlers WHERE name NOT IN ('async', 'gone')");

# one that is told to end in the middle of a statement that holds data
sql("SELECT esrs_register_handler('sleepy', ARRAY['bad'], 'on_sleepy(esrs_event)', mode => 'async');
     SELECT count(*) FROM esrs_persist('bad', gen_random_uuid(), ARRAY['{\"text\": \"MARK MARK\"}']::jsonb[])");
reaches("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND wait_event = 'PgSleep')", 'in trouble: one sleeps');
is(sql("SELECT esrs_stop_workers()"), '1', 'in trouble: it is stopped');
sql("SELECT esrs_unregister_handler('sleepy')");
unlike(log_from($node, $log), qr/MARK/, 'in trouble: what the events hold is not in the log');

# ---------------------------------------------------------------------------
# no worker can run
# ---------------------------------------------------------------------------

# a copy of the database, to have two of them
$node->append_conf('postgresql.conf', "max_worker_processes = 0\nmax_logical_replication_workers = 0");
$node->restart;
sql('CREATE DATABASE poor TEMPLATE postgres');

# persist(HOW OFTEN, DATABASE): each time in a session of its own; returns what they said
sub persist
{
	my ($times, $database) = @_;
	my $said = '';

	for my $i (1 .. $times)
	{
		# so that it is tried again in between
		my ($rc, undef, $stderr) = $node->psql($database, "SELECT pg_sleep(0.25);
		    SELECT esrs_persist('counter', " . id(1) . ", ARRAY['{\"added\": 1}']::jsonb[]);
		    SELECT esrs_handle_command('counter', " . id(1) . ", '{\"add\": 1}')");
		$said .= $rc == 0 ? $stderr : "exit $rc: $stderr";
	}
	return $said;
}

# A handler and a listener in database "poor", whose worker finds no slot.
my ($base, @told);
sub no_slot
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$listener = $node->background_psql('poor');
	$listener->query_safe('LISTEN counter_events');
	$base = sql('SELECT last_value FROM esrs.position_seq', 'poor');
	my $events = sql('SELECT count(*) FROM counter_events', 'poor');
	my $done = sql("SELECT count(*) FROM handled WHERE handler = 'async'", 'poor');
	my $said = persist(5, 'poor');
	is(() = $said =~ /WARNING: /g, 1, "$name: one WARNING for all");
	like($said, qr/^psql:\S+ WARNING:\s+no background worker is left for asynchronous event handlers\n/, "$name: which says what is missing");
	unlike($said, qr/ERROR|exit/, "$name: and commands work");
	is(sql('SELECT count(*) FROM counter_events', 'poor'), $events + 10, "$name: events are stored");
	is(sql("SELECT count(*) FROM handled WHERE handler = 'async'", 'poor'), $done, "$name: and wait");
	is(sql('SELECT esrs_start_workers()', 'poor'), 'f', "$name: esrs_start_workers() says that there is none");
	@told = heard($listener, 10);
	is(scalar(@told), 10, "$name: the writers notify");
	sql("CALL esrs_run_handlers('async')", 'poor');
	is(sql("SELECT count(*) FROM handled WHERE handler = 'async'", 'poor'), $done + 10, "$name: CALL handles the events");
	return;
}
no_slot('max_worker_processes = 0');
$listener->quit;

# one slot, which the worker of the other database has, and leaves
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
$node->restart;
append(1);
reaches(workers('postgres', 1), 'one slot: the first database has it');
no_slot('one slot');
sql('SELECT esrs_stop_workers()');
my $said = '';
for (1 .. 40)
{
	$said .= persist(1, 'poor');
	last if sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'esrs worker' AND datname = 'poor'");
}
is($said, '', 'one slot: when it is free, a writer gets a worker, and nothing more is said');
my $since = "position > $base";
reaches("SELECT NOT EXISTS (SELECT FROM counter_events AS e WHERE $since AND NOT EXISTS (SELECT FROM handled AS h WHERE h.position = e.position))",
	'one slot: everything is handled', 'poor');
is(sql("SELECT count(*) - count(DISTINCT position) FROM handled WHERE $since", 'poor'), '0', 'one slot: once');
$told = sql("SELECT string_agg(position::text, ' ' ORDER BY position) FROM counter_events WHERE $since", 'poor');
push @told, heard($listener, scalar(split / /, $told) - @told);
is("@told", $told, 'one slot: each event was told once, in order, be it by a writer or the worker');
$listener->quit;

$node->stop;
done_testing();
