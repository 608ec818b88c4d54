# Aggregates, handlers and functions that are made and dropped again at once, while the
# background worker announces and handles their events and sessions look at them.  Whoever
# looks gets an error that says so, or nothing; no one crashes, and none sees an internal
# error.
#
# Catches: anything of a table or a function that is looked up after its lock was released,
# and is taken to be there; a log that fills with what is no more than a drop.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{ESRS_LONG} ? 5_000 : 300;

my $node = new_node('dropped_meanwhile', conf => <<'CONF');
fsync = off
esrs.max_workers = 2
log_line_prefix = '%m [%p] %a '
CONF

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql(recorder_sql('one'));
sql(<<'SQL');
CREATE TABLE problems (code text, message text, look text, UNIQUE (code, message, look));
CREATE TABLE control (stop boolean);
INSERT INTO control VALUES (false);
CREATE FUNCTION fast_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$
    SELECT ARRAY[jsonb_build_object('added', command -> 'add')]
$$;
CREATE FUNCTION fast_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'added')::int)
$$;
SQL

# Makes and drops an aggregate, as fast as it goes.
sub maker
{
	my ($n) = @_;

	return "SET client_min_messages = error;\n" . (<<SQL x (3 * $rounds));
SELECT esrs_register_aggregate('drop$n', handle_command => 'fast_handle(jsonb,jsonb)', apply_event => 'fast_apply(jsonb,jsonb)');
SELECT ok FROM esrs_try_command('drop$n', gen_random_uuid(), '{"add": 1}');
SELECT esrs_unregister_aggregate('drop$n', true);
SQL
}

# Makes and drops an aggregate with its functions and a handler.
sub maker_of_all
{
	my ($n) = @_;
	my $counter = counter_sql("drop$n");

	return "SET client_min_messages = error;\n" . (<<SQL x $rounds);
BEGIN;
$counter
SELECT esrs_register_handler('on$n', ARRAY['drop$n'], 'on_one(esrs_event)', mode => 'async');
COMMIT;
SELECT ok FROM esrs_try_command('drop$n', gen_random_uuid(), '{"add": 1}');
SELECT ok FROM esrs_try_command('drop$n', gen_random_uuid(), '{"add": 1}');
SELECT esrs_unregister_handler('on$n');
SELECT esrs_unregister_aggregate('drop$n', true);
DROP FUNCTION drop${n}_handle, drop${n}_apply;
SQL
}

# Looks at what may be gone, until it is told to stop, and notes each error once.
my $looker = <<'SQL';
SET client_min_messages = warning;
DO $do$
DECLARE
    looks text[] := ARRAY[
        'SELECT count(*) FROM esrs_check()',
        'SELECT count(*) FROM esrs_aggregates',
        'SELECT count(*) FROM esrs_handlers',
        'SELECT count(*) FROM esrs_lag',
        'SELECT count(*) FROM esrs_feed(ARRAY[''drop1''])',
        'SELECT count(*) FROM esrs_feed(ARRAY[''drop1'', ''drop2''])',
        'SELECT count(*) FROM esrs_events(''drop1'', gen_random_uuid())',
        'SELECT esrs_load(''drop2'', gen_random_uuid())',
        'SELECT count(*) FROM esrs_states(''drop2'')',
        'SELECT count(*) FROM esrs_verify(''drop1'')',
        'SELECT ok FROM esrs_try_command(''drop1'', gen_random_uuid(), ''{"add": 1}'')',
        'SELECT count(*) FROM esrs_persist(''drop2'', gen_random_uuid(), ARRAY[''{"added": 1}''::jsonb])'];
    look text;
BEGIN
    WHILE NOT (SELECT stop FROM control) LOOP
        FOREACH look IN ARRAY looks LOOP
            BEGIN
                EXECUTE look;
            EXCEPTION WHEN OTHERS THEN
                INSERT INTO problems VALUES (SQLSTATE, SQLERRM, look) ON CONFLICT DO NOTHING;
            END;
            COMMIT;
        END LOOP;
    END LOOP;
END $do$;
SQL

# Run scripts in sessions of their own, at once.
my $nscripts = 0;

sub start
{
	return map {
		my $file = "$PostgreSQL::Test::Utils::tmp_check/script" . $nscripts++ . '.sql';
		my $output = '';

		append_to_file($file, $_);
		{ output => \$output,
			run => IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-f', $file,
					'-d', $node->connstr('postgres') ], '>', '/dev/null', '2>', \$output) };
	} @_;
}

sub ends_well
{
	my ($session, $name) = @_;

	$session->{run}->finish;
	is(${ $session->{output} }, '', $name);
}

# with nothing beside them, they drop a table the very moment the worker has looked at it
ends_well($_, 'an aggregate is made and dropped') foreach start(maker(1), maker(2));

my ($looking) = start($looker);
ends_well($_, 'all is made and dropped') foreach start(maker_of_all(1), maker(2));
sql('UPDATE control SET stop = true');
ends_well($looking, 'a session looks on');

# XX000: an internal error; 57P02: another process has crashed
is(sql("SELECT code, message, look FROM problems WHERE code ~ '^(XX|57P)'"), '', 'no internal error');
note(sql('SELECT code, look, count(*), min(message) FROM problems GROUP BY 1, 2 ORDER BY 1, 2'));

my $log = slurp_file($node->logfile);
unlike($log, qr/terminated by signal/, 'no process crashed');
cmp_ok(scalar(() = $log =~ /could not announce/g), '<', 20, 'what is dropped is hardly worth a line of the log');
unlike($log, qr/cache lookup failed|could not open relation/, 'nor an internal error of a worker');

done_testing();
