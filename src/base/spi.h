/*-------------------------------------------------------------------------
 *
 * spi.h
 *	  SPI with kept plans, see spi.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_SPI_H
#define ESRS_BASE_SPI_H

#include "postgres.h"

#include "executor/spi.h"
#include "utils/snapshot.h"

extern void esrs_spi_begin(void);
extern void esrs_spi_end(void);
extern SPIPlanPtr esrs_spi_prepare(const char *query, int nargs, Oid *types);
extern SPIPlanPtr esrs_spi_prepare_ordered(const char *query, int nargs, Oid *types);
extern SPIPlanPtr esrs_spi_keep(SPIPlanPtr *plan, const char *query, int nargs, Oid *types);
extern void esrs_spi_prefer_index(void);
extern uint64 esrs_spi_execute(SPIPlanPtr plan, Datum *values, const char *nulls,
							   int expected);
extern uint64 esrs_spi_select_at(SPIPlanPtr plan, Datum *values, const char *nulls,
								 Snapshot snapshot);
extern uint64 esrs_spi_select_first(SPIPlanPtr plan, Datum *values, const char *nulls,
									Snapshot snapshot, int64 count);
extern uint64 esrs_spi_run(const char *query, int nargs, Oid *types, Datum *values,
						   const char *nulls, int expected);
extern uint64 esrs_spi_select_latest(const char *query, int nargs, Oid *types, Datum *values);
extern SPIPlanPtr esrs_spi_prepare_once(const char *query, int nargs, Oid *types);
extern Portal esrs_spi_open(const char *query, int nargs, Oid *types, Datum *values,
							Snapshot snapshot);
extern uint64 esrs_spi_fetch(Portal cursor, int64 count);
extern void esrs_spi_utility(const char *command);
extern char *esrs_spi_text(uint64 row, int column);
extern Datum esrs_spi_column(uint64 row, int column, bool *isnull);

#endif							/* ESRS_BASE_SPI_H */
