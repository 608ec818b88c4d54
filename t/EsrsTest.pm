# EsrsTest.pm - what the TAP tests share: a server, and an aggregate to play with.
package EsrsTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(new_node counter_sql id recorder_sql wait_until configure workers log_size log_from);

# A running server.  Options: conf => lines for postgresql.conf, streaming => 1.
sub new_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(
		extra => [ '--encoding=UTF8', '--locale=C' ],
		allows_streaming => $options{streaming} || 0);
	$node->append_conf('postgresql.conf',
		"log_statement = none\nmax_connections = 50\n" . ($options{conf} || ''));
	$node->start;
	return $node;
}

# The statements that make an aggregate $name: {"add": n} is answered by the event
# {"added": n}, {"nothing": 1} by none, and anything else by a rejection.  Its
# functions are in schema $schema.
sub counter_sql
{
	my ($name, $schema) = @_;

	$schema ||= 'public';
	return <<SQL;
CREATE FUNCTION $schema.${name}_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$
BEGIN
    IF command ? 'add' THEN
        RETURN ARRAY[jsonb_build_object('added', command -> 'add')];
    ELSIF command ? 'nothing' THEN
        RETURN '{}'::jsonb[];
    END IF;
    RAISE 'no' USING ERRCODE = 'ZE001', CONSTRAINT = 'no';
END \$\$;
REVOKE EXECUTE ON FUNCTION $schema.${name}_handle FROM PUBLIC;
CREATE FUNCTION $schema.${name}_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS \$\$
    SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'added')::int)
\$\$;
SELECT esrs_register_aggregate('$name', handle_command => '$schema.${name}_handle(jsonb,jsonb)',
    apply_event => '$schema.${name}_apply(jsonb,jsonb)');
SQL
}

# The uuid of instance $n, as SQL.
sub id
{
	my ($n) = @_;

	return sprintf("'00000000-0000-4000-8000-%012d'", $n);
}

# ---------------------------------------------------------------------------
# asynchronous handlers, and the background worker
# ---------------------------------------------------------------------------

# The statements that make an event handler's function on_$name(esrs_event), or with
# set => 1 on_$name(esrs_event[]), which notes each event in table "handled".  As many
# seconds as table "slow" has for it, it sleeps first.
sub recorder_sql
{
	my ($name, %options) = @_;
	my $array = $options{set} ? '[]' : '';
	my $events = $options{set} ? 'unnest(e)' : '(SELECT (e).*)';

	return <<SQL;
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS public.handled (handler text NOT NULL, nth bigint GENERATED ALWAYS AS IDENTITY,
    aggregate text, aggregate_id uuid, sequence_number int, position bigint,
    pid int DEFAULT pg_backend_pid(), at timestamptz DEFAULT clock_timestamp());
CREATE TABLE IF NOT EXISTS public.slow (handler text, seconds float8);
CREATE FUNCTION public.on_$name(e esrs_event$array) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS \$\$
DECLARE
    pause float8 := (SELECT max(seconds) FROM public.slow WHERE handler = '$name');
BEGIN
    IF pause > 0 THEN
        PERFORM pg_sleep(pause);
    END IF;
    INSERT INTO public.handled (handler, aggregate, aggregate_id, sequence_number, position)
    SELECT '$name', aggregate, aggregate_id, sequence_number, position FROM $events AS x;
END \$\$;
RESET client_min_messages;
SQL
}

# Wait until an SQL condition is true; false if it is not after some time.  A server
# that cannot be reached counts as "not yet".
sub wait_until
{
	my ($node, $database, $condition, $seconds) = @_;
	my $end = time() + ($seconds || 60);
	my ($rc, $stderr);

	while (1)
	{
		my $left = $end - time() + 1;

		# one session that looks again and again; each time in a transaction of its own
		($rc, undef, $stderr) = $node->psql($database, <<SQL, on_error_stop => 1);
SET client_min_messages = warning;
DO \$do\$
DECLARE
    until timestamptz := clock_timestamp() + '$left s';
    reached boolean;
BEGIN
    LOOP
        PERFORM pg_stat_clear_snapshot();
        EXECUTE \$q\$SELECT ($condition)::boolean\$q\$ INTO reached;
        EXIT WHEN reached;
        IF clock_timestamp() > until THEN
            RAISE 'not reached';
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
END \$do\$;
SQL
		return 1 if $rc == 0;
		last if $rc != 2 || time() > $end;    # 2: no connection
		select(undef, undef, undef, 0.1);
	}
	Test::More::diag("never true: $condition\n$stderr");
	return 0;
}

# Change settings, and wait until the postmaster hands them on.
sub configure
{
	my ($node, %settings) = @_;
	local $ENV{PGOPTIONS} = '';

	$node->append_conf('postgresql.conf',
		join("\n", map { "$_ = $settings{$_}" } sort keys %settings));
	$node->reload;
	return wait_until($node, 'postgres',
		join(' AND ', map { "current_setting('$_') = " . ($settings{$_} =~ /^'/ ? $settings{$_} : "'$settings{$_}'") }
			  sort keys %settings), 30);
}

# A condition for wait_until(): so many workers are in a database.
sub workers
{
	my ($database, $count) = @_;

	return "(SELECT count(*) = $count FROM pg_stat_activity
	         WHERE backend_type = 'esrs worker' AND datname = '$database')";
}

# The end of a server's log, to be given to log_from().
sub log_size
{
	my ($node) = @_;

	return -s $node->logfile;
}

# What the log has got since then.
sub log_from
{
	my ($node, $from) = @_;

	return slurp_file($node->logfile, $from);
}

1;
