package io.theflash.spark

import java.util.{Collections, Locale, Set => JavaSet}

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.connector.catalog.TableCapability._
import org.apache.spark.sql.connector.catalog.{SupportsRead, SupportsWrite, TableCapability}
import org.apache.spark.sql.connector.read.ScanBuilder
import org.apache.spark.sql.connector.write.{LogicalWriteInfo, WriteBuilder}
import org.apache.spark.sql.types.{StructField, StructType}
import org.apache.spark.sql.util.CaseInsensitiveStringMap

/** A table at one timestamp. It declares support for writes to reject them with its own error.
  *
  * @param userSchema the schema that Spark expects, which may be a user's `.schema(...)`
  */
private[spark] class TheFlashTable(
    settings: Settings,
    ask: () => Reading,
    userSchema: Option[StructType]
) extends SupportsRead
    with SupportsWrite {
  private lazy val reading = ask()

  override def name(): String =
    settings.texts.get("table").orElse(settings.texts.get("path")).getOrElse("theflash")

  override def schema(): StructType = userSchema.getOrElse(Errors.planning(reading.schema))

  override def capabilities(): JavaSet[TableCapability] =
    Set(BATCH_READ, BATCH_WRITE, ACCEPT_ANY_SCHEMA, TRUNCATE, OVERWRITE_BY_FILTER).asJava

  override def properties(): java.util.Map[String, String] = Collections.emptyMap()

  override def newScanBuilder(options: CaseInsensitiveStringMap): ScanBuilder = Errors.planning {
    val chosen = userSchema.fold(reading.columns)(chosenColumns)
    if (isPushedTo(options)) new PushingScanBuilder(settings, reading, chosen)
    else new TheFlashScanBuilder(settings, reading, chosen)
  }

  /** Whether a scan with these options pushes work down. */
  def isPushedTo(options: CaseInsensitiveStringMap): Boolean =
    settings.pushdown && options.getBoolean("pushdown", true)

  override def newWriteBuilder(info: LogicalWriteInfo): WriteBuilder =
    Errors.planning(throw Errors.writing())

  /** The table's columns that a schema names, in its order. A field may be nullable if the column
    * is not, but not vice versa.
    */
  private def chosenColumns(schema: StructType): Seq[TableColumn] = {
    if (schema.isEmpty) throw Errors.option("schema", "names no column")
    val byName = reading.columns.map(c => c.field.name.toLowerCase(Locale.ROOT) -> c).toMap
    schema.map { field =>
      val column = byName.getOrElse(
        field.name.toLowerCase(Locale.ROOT),
        throw Errors.option(
          "schema",
          s"names the column '${field.name}', which is not in ${reading.table}"
        )
      )
      checkField(field, column.field)
      column.copy(field = column.field.copy(nullable = field.nullable))
    }
  }

  private def checkField(wanted: StructField, real: StructField): Unit = {
    if (wanted.dataType != real.dataType) {
      val (requested, actual) = (wanted.dataType.simpleString, real.dataType.simpleString)
      throw Errors.option(
        "schema",
        s"says that '${wanted.name}' is $requested; in ${reading.table} it is $actual"
      )
    }
    if (real.nullable && !wanted.nullable)
      throw Errors.option(
        "schema",
        s"says that '${wanted.name}' is not nullable; in ${reading.table} it is"
      )
  }
}
