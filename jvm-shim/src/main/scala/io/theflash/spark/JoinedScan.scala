package io.theflash.spark

import org.apache.spark.sql.connector.expressions.filter.Predicate
import org.apache.spark.sql.connector.expressions.{Expressions, NamedReference}
import org.apache.spark.sql.connector.read.{Batch, SupportsRuntimeV2Filtering}

/** Scan to which Spark passes the values of the other side of a join, when it has read that side.
  *
  * Several executions may share a scan, each with other values, or without any. An execution calls
  * `filter` and then `toBatch` in one thread, so the values are for the next `toBatch` there only.
  *
  * @param columns the columns with values that the store can compare
  * @param narrowed the definition of the scan with more conditions; None: nothing to add
  */
private[spark] final class JoinedScan(
    planner: Planner,
    spec: ScanSpec,
    columns: Seq[String],
    narrowed: Seq[Predicate] => Option[ScanSpec]
) extends TheFlashScan(planner, spec)
    with SupportsRuntimeV2Filtering {
  private val next = new ThreadLocal[Option[Batch]]

  override def filterAttributes(): Array[NamedReference] =
    columns.map(name => Expressions.column(name): NamedReference).toArray

  override def filter(predicates: Array[Predicate]): Unit =
    next.set(narrowed(predicates.toSeq).map(new TheFlashScan(planner, _)))

  override def toBatch: Batch = {
    val batch = Option(next.get).flatten
    next.remove()
    batch.getOrElse(this)
  }
}

private[spark] object JoinedScan {

  /** Longer lists take longer to compare than rows to return. */
  val ValuesMax = 1000
}
