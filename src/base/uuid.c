/*-------------------------------------------------------------------------
 *
 * uuid.c
 *	  Generating and writing UUIDs.
 *
 * Version 7 as in RFC 9562: 48 bits of milliseconds, then 12 bits of their
 * fraction (method 3 of its section 6.2), then 62 random bits.  Such an id
 * keeps an index local; it is no order, and nothing may sort by it.
 *
 * Random bytes are drawn 4 kB at a time: one call of pg_strong_random() costs
 * a hundred times more than a UUID.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/uuid.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/timestamp.h"

#define POOL_SIZE	4096

/* Fill a buffer of at most 16 bytes from the backend's pool. */
static void
random_bytes(unsigned char *out, int len)
{
	static unsigned char pool[POOL_SIZE];
	static int	used = POOL_SIZE;
	static int	owner = 0;

	/* a forked child must not repeat its parent's bytes */
	if (used + len > POOL_SIZE || owner != MyProcPid)
	{
		if (!pg_strong_random(pool, POOL_SIZE))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		used = 0;
		owner = MyProcPid;
	}
	memcpy(out, pool + used, len);
	memset(pool + used, 0, len);
	used += len;
}

static void
set_version(pg_uuid_t *uuid, int version)
{
	uuid->data[6] = (uuid->data[6] & 0x0f) | (version << 4);
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

void
esrs_uuid_v4(pg_uuid_t *uuid)
{
	random_bytes(uuid->data, UUID_LEN);
	set_version(uuid, 4);
}

/* The clock is given, so that the ids of one command carry its time. */
void
esrs_uuid_v7(pg_uuid_t *uuid, TimestampTz now)
{
	int64		us = now + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64		ms = us / 1000;
	uint32		fraction = (us % 1000) * 4096 / 1000;

	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (ms >> (40 - 8 * i));
	uuid->data[6] = (unsigned char) (fraction >> 8);
	uuid->data[7] = (unsigned char) fraction;
	random_bytes(uuid->data + 8, 8);
	set_version(uuid, 7);
}

/* Lower case with hyphens, palloc'd in the current context. */
char *
esrs_uuid_text(const pg_uuid_t *uuid)
{
	static const char digits[] = "0123456789abcdef";
	char	   *text = palloc(ESRS_UUID_TEXT_SIZE);
	char	   *p = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[uuid->data[i] >> 4];
		*p++ = digits[uuid->data[i] & 0x0f];
	}
	*p = '\0';
	return text;
}

bool
esrs_uuid_equal(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a->data, b->data, UUID_LEN) == 0;
}
