package io.theflash.spark

import scala.jdk.CollectionConverters._

import com.fasterxml.jackson.databind.JsonNode
import com.fasterxml.jackson.databind.node.{JsonNodeFactory, ObjectNode}
import org.apache.arrow.vector.types.pojo.Field
import org.apache.spark.sql.types.{MetadataBuilder, StructField, StructType}

/** Messages of the API in protobuf's JSON form, as far as the jar reads them. */
private[spark] object Messages {
  private val make = JsonNodeFactory.instance

  def message(fields: (String, JsonNode)*): ObjectNode = {
    val made = make.objectNode()
    fields.foreach { case (name, value) => made.set[JsonNode](name, value) }
    made
  }

  def text(value: String): JsonNode = make.textNode(value)

  def number(value: Long): JsonNode = make.textNode(value.toString)

  def flag(value: Boolean): JsonNode = make.booleanNode(value)

  def list(values: Iterable[JsonNode]): JsonNode = {
    val made = make.arrayNode()
    values.foreach(each => made.add(each))
    made
  }

  /** Encodes the settings of a read as strings, which Python interprets. */
  def readOptions(options: Map[String, String]): JsonNode =
    message("settings" -> list(options.toSeq.sorted.map { case (name, value) =>
      message("name" -> text(name), "value" -> text(value))
    }))
}

/** A resolved read: the request that plans all of it, at a fixed timestamp, and its columns. */
private[spark] final case class Reading(
    request: ObjectNode,
    table: String,
    columns: Seq[TableColumn]
) {
  val snapshotTs: String = request.path("moment").path("snapshotTs").asText("0")
  val schema: StructType = StructType(columns.map(_.field))
}

private[spark] final case class TableColumn(field: StructField, isInHandle: Boolean)

private[spark] object Reading {

  /** Has a place resolve `options`. */
  def of(client: Client, options: Map[String, String], timeoutMs: Int): Reading = {
    val prepared = client.call("PrepareRead", Messages.readOptions(options), timeoutMs)
    val table = prepared.path("table")
    val fields = Types.schema(table.path("arrowSchema").asText())
    val columns = table.path("columns").asScala.toSeq
    if (columns.length != fields.length)
      throw Errors.protocol(table.path("name").asText(), "its columns do not fit its schema")
    val request = prepared.path("request").deepCopy[ObjectNode]()
    Reading(request, table.path("name").asText(), columns.zip(fields).map(column))
  }

  private def column(pair: (JsonNode, Field)): TableColumn = {
    val (column, field) = pair
    val tidbType = column.path("type").asText()
    val comment = column.path("comment").asText("")
    val metadata = new MetadataBuilder()
    if (comment.nonEmpty) metadata.putString("comment", comment)
    TableColumn(
      StructField(
        field.getName,
        Types.sparkType(field, tidbType),
        column.path("nullable").asBoolean(false),
        metadata.build()
      ),
      column.path("inHandle").asBoolean(false)
    )
  }
}

/** A part of a scan. */
private[spark] final case class Split(
    ticket: String,
    physicalId: String,
    regionId: String,
    versions: Long,
    sizeBytes: Long
)

/** The splits of a scan. */
private[spark] final case class Plan(
    handle: String,
    latchId: String,
    fields: Seq[Field],
    splits: Seq[Split]
)

private[spark] object Plan {
  def of(response: JsonNode): Plan = Plan(
    response.path("snapshot").path("handle").asText(),
    response.path("snapshot").path("latchId").asText(),
    Types.schema(response.path("arrowSchema").asText()),
    response.path("splits").asScala.toSeq.map { split =>
      Split(
        split.path("ticket").asText(),
        split.path("physicalId").asText("0"),
        split.path("regionId").asText("0"),
        split.path("versions").asLong(0),
        split.path("sizeBytes").asLong(0)
      )
    }
  )
}
