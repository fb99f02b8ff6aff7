package io.theflash.spark

import java.util.{Map => JavaMap}

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.connector.catalog.{Table, TableProvider}
import org.apache.spark.sql.connector.expressions.Transform
import org.apache.spark.sql.sources.DataSourceRegister
import org.apache.spark.sql.types.StructType
import org.apache.spark.sql.util.CaseInsensitiveStringMap

/** Columnar implementation of `spark.read.format("theflash")`, like the Python data source.
  *
  * Spark creates an instance for each `load()` and requests the schema and then the table; the
  * first request fixes the timestamp. An error is reported when the table is read, because writing
  * also creates a table and is rejected with an error of its own.
  */
class TheFlashProvider extends TableProvider with DataSourceRegister {
  private var read: Option[(Map[String, String], Reading)] = None

  override def shortName(): String = "theflash"

  override def supportsExternalMetadata(): Boolean = true

  override def inferSchema(options: CaseInsensitiveStringMap): StructType = Errors.planning {
    reading(Settings.ofTable(options.asScala.toMap)).schema
  }

  override def getTable(
      schema: StructType,
      partitioning: Array[Transform],
      properties: JavaMap[String, String]
  ): Table = {
    val settings = Settings.ofTable(properties.asScala.toMap)
    new TheFlashTable(settings, () => reading(settings), Option(schema))
  }

  private def reading(settings: Settings): Reading = synchronized {
    read match {
      case Some((texts, reading)) if texts == settings.texts => reading
      case _ =>
        val reading = settings.reading()
        read = Some((settings.texts, reading))
        reading
    }
  }
}
