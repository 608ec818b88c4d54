# EsrsTest.pm - what the TAP tests share: a server, and an aggregate to play with.
package EsrsTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(new_node counter_sql id);

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

1;
